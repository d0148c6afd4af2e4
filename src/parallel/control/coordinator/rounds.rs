//! What a job that has met does together: collective operations, steps, goodbyes.

use super::{Coordinator, Phase};
use crate::error::Loss;
use crate::parallel::control::member::is_good;
use crate::parallel::control::message::{Bytes, Halt, Message};

impl Coordinator {
    /// `rank` gives its part of an operation; the last part completes it.
    pub(super) fn give(&mut self, rank: usize, sequence: u64, what: String, bytes: Bytes) {
        let begun = self.round.parts.iter().any(Option::is_some);
        if !begun {
            self.round.what.clone_from(&what);
        }
        if sequence != self.round.sequence || what != self.round.what {
            let expected = format!("operation {}, {}", self.round.sequence, self.round.what);
            let found = format!("operation {sequence}, {what}");
            return self.out_of_step(rank, expected, found);
        }
        self.round.parts[rank] = Some(bytes);
        if self.round.parts.iter().all(Option::is_some) {
            self.complete();
        } else {
            self.check_left();
        }
    }

    fn complete(&mut self) {
        let ranks = self.round.parts.len();
        let parts = std::mem::replace(&mut self.round.parts, vec![None; ranks]);
        let sequence = self.round.sequence;
        self.round.sequence += 1;
        self.tell(&Message::Gathered {
            sequence,
            parts: parts.into_iter().flatten().collect(),
        });
    }

    /// An operation that somebody who has left would have to take part in never ends.
    fn check_left(&mut self) {
        let begun = self.round.parts.iter().any(Option::is_some);
        let mut missing = self.seats.iter().zip(&self.round.parts).enumerate();
        let gone = missing.find_map(|(rank, (seat, part))| {
            let left = seat.as_ref()?.left?;
            part.is_none().then_some((rank, left))
        });
        if let (true, Some((rank, exit))) = (begun, gone) {
            self.lose(rank, Loss::Left { exit });
        }
    }

    /// Rank 0 is about to begin `step`: nobody has begun a step after [`Self::through`].
    pub(super) fn begin(&mut self, step: u64) {
        if self.halt.is_some() {
            return;
        }
        let next = self.through.map_or(step, |through| step.max(through + 1));
        if let Some((rank, signal)) = self.wish.take() {
            let halt = Halt {
                step: next,
                rank,
                signal,
            };
            self.halt = Some(halt.clone());
            return self.tell(&Message::Halt(halt));
        }
        let through = step + self.settings.ahead;
        if self.through.is_none_or(|known| known < through) {
            self.through = Some(through);
            self.tell(&Message::Through { step: through });
        }
    }

    /// `rank` says goodbye. As planned, it waits for the others; else they are told.
    pub(super) fn leave(&mut self, rank: usize, exit: u8) {
        if self.phase == Phase::Joining {
            return self.leave_early(rank, exit);
        }
        if !is_good(exit) {
            return self.lose(rank, Loss::Left { exit });
        }
        if let Some(seat) = self.seats[rank].as_mut() {
            seat.left = Some(exit);
        }
        let exits: Option<Vec<u8>> = self
            .seats
            .iter()
            .map(|seat| seat.as_ref().and_then(|seat| seat.left))
            .collect();
        match exits {
            Some(exits) => self.bye(exits.into_iter().max().unwrap_or_default()),
            None => self.check_left(),
        }
    }

    fn bye(&mut self, exit: u8) {
        self.tell(&Message::Bye { exit });
        self.phase = Phase::Done;
        self.close_all();
    }
}
