//! Small messages between replicas: between the threads of a process, and between processes.

use std::sync::Arc;

use super::Place;
use super::control::Control;
use super::meeting::{Gone, LastWords, Meeting};
use crate::error::{Error, Result};

/// A message of every replica, by rank.
type Heard = Vec<Vec<u8>>;

/// One replica's place among all.
pub(super) struct Talk {
    place: Place,
    /// Its place among the replicas of this process.
    member: usize,
    messages: Arc<Meeting<Vec<u8>, Result<Heard>>>,
    /// The way to the other processes, if there are any.
    control: Option<Arc<Control>>,
    words: Option<LastWords>,
}

impl Talk {
    /// For every replica of a process that has `local` of them, in the order of their ranks.
    pub(super) fn among(local: usize, control: Option<&Arc<Control>>) -> impl Iterator<Item = Self> {
        let messages = Arc::new(Meeting::new(local));
        let (process, processes) = control.map_or((0, 1), |control| (control.rank(), control.size()));
        let control = control.cloned();
        (0..local).map(move |member| Self {
            place: Place {
                rank: process * local + member,
                replicas: processes * local,
                local,
            },
            member,
            messages: Arc::clone(&messages),
            control: control.clone(),
            words: None,
        })
    }

    /// Which of the replicas this is.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Says `message` to all, hears what each said, by rank.
    pub(super) fn exchange(&self, message: Vec<u8>) -> Result<Heard> {
        self.messages
            .meet(self.member, message, |local| self.with_other_processes(local))
            .map_err(|gone| self.lost(gone, "hear what it says"))?
    }

    /// What every replica of this process hears, once they have all spoken.
    fn with_other_processes(&self, messages: Heard) -> Vec<Result<Heard>> {
        let local = self.place.local;
        let Some(control) = &self.control else {
            return (0..local).map(|_| Ok(messages.clone())).collect();
        };
        let together = serde_json::to_vec(&messages).expect("plain data serialises");
        let heard = control
            .all_gather("an exchange of messages", together)
            .and_then(|processes| unpacked(&processes, local));
        match heard {
            Ok(all) => (0..local).map(|_| Ok(all.clone())).collect(),
            Err(error) => {
                let (message, exit) = (error.to_string(), error.exit_code());
                let rank = self.place.rank - self.member;
                let as_told = |_| {
                    Err(Error::Replica {
                        rank,
                        message: message.clone(),
                        exit,
                    })
                };
                let mut outcomes: Vec<_> = (0..local).map(as_told).collect();
                outcomes[0] = Err(error);
                outcomes
            }
        }
    }

    /// Errors where another replica is gone, which this one wants for what it is `doing`.
    pub(super) fn check(&self, doing: &str) -> Result<()> {
        if let Some(peer) = self.control.as_ref().and_then(|control| control.failure()) {
            return Err(Error::PeerLost(Box::new(peer)));
        }
        match self.messages.gone() {
            Some(gone) => Err(self.lost(gone, doing)),
            None => Ok(()),
        }
    }

    /// How far this replica is: what other processes name if it is lost.
    pub(super) fn progress(&self, step: u64, doing: &'static str) {
        if let Some(control) = &self.control {
            control.beat(step, doing);
        }
    }

    /// The error of a wait for a replica of this process that is gone.
    pub(super) fn lost(&self, gone: Gone, doing: &str) -> Error {
        let words = gone.words.unwrap_or_else(|| LastWords {
            message: format!(
                "stopped without a word while replica {} waited to {doing}",
                self.place.rank
            ),
            exit: 8,
        });
        Error::Replica {
            rank: self.place.rank - self.member + gone.member,
            message: words.message,
            exit: words.exit,
        }
    }

    /// What the other replicas of this process hear who wait for this one once it is gone.
    pub(super) fn last_words(&mut self, error: &Error) {
        self.words = Some(LastWords {
            message: error.to_string(),
            exit: error.exit_code(),
        });
    }

    /// The last words, for others who must be told.
    pub(super) fn words(&self) -> Option<LastWords> {
        self.words.clone()
    }
}

/// The messages of all replicas, by rank.
fn unpacked(processes: &[Vec<u8>], local: usize) -> Result<Heard> {
    let mut all = Vec::with_capacity(processes.len() * local);
    for (process, together) in processes.iter().enumerate() {
        let messages: Vec<Vec<u8>> = serde_json::from_slice(together).unwrap_or_default();
        if messages.len() != local {
            return Err(Error::invalid(
                format_args!("what process {process} says"),
                format_args!("messages of {local} replicas"),
                messages.len(),
            ));
        }
        all.extend(messages);
    }
    Ok(all)
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.messages.leave(self.member, self.words.take());
    }
}
