//! Small messages between replicas.

use std::sync::Arc;

use super::Place;
use super::meeting::{Gone, LastWords, Meeting};
use crate::error::{Error, Result};

/// One replica's place among those of its process.
pub(super) struct Talk {
    place: Place,
    messages: Arc<Meeting<Vec<u8>, Vec<Vec<u8>>>>,
    words: Option<LastWords>,
}

impl Talk {
    /// For every replica of a process, in the order of their ranks.
    pub(super) fn among(replicas: usize) -> impl Iterator<Item = Self> {
        let messages = Arc::new(Meeting::new(replicas));
        (0..replicas).map(move |rank| Self {
            place: Place { rank, replicas },
            messages: Arc::clone(&messages),
            words: None,
        })
    }

    /// Which of the replicas this is.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Says `message` to all, hears what each said, by rank.
    pub(super) fn exchange(&self, message: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let to_all = |all: Vec<Vec<u8>>| vec![all; self.place.replicas];
        self.messages
            .meet(self.place.rank, message, to_all)
            .map_err(|gone| self.lost(gone, "hear what it says"))
    }

    /// Errors where another replica is gone.
    pub(super) fn check(&self) -> Result<()> {
        match self.messages.gone() {
            Some(gone) => Err(self.lost(gone, "add its gradient")),
            None => Ok(()),
        }
    }

    /// The error of a wait for a replica that is gone.
    pub(super) fn lost(&self, gone: Gone, doing: &str) -> Error {
        let words = gone.words.unwrap_or_else(|| LastWords {
            message: format!(
                "stopped without a word while replica {} waited to {doing}",
                self.place.rank
            ),
            exit: 8,
        });
        Error::Replica {
            rank: gone.member,
            message: words.message,
            exit: words.exit,
        }
    }

    /// What those hear who wait for this replica once it is gone.
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

impl Drop for Talk {
    fn drop(&mut self) {
        self.messages.leave(self.place.rank, self.words.take());
    }
}
