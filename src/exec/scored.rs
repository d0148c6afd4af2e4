//! What the forward passes of micro-batches said, until somebody asks: a device goes on meanwhile.

use super::Outcomes;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::plan::Plan;

/// Outcomes on the device, a queue of as many places as there are.
pub(super) struct Scored<B: Backend> {
    kept: B::Buffer,
    places: usize,
    /// Micro-batches whose outcomes were put in, and taken out.
    put: usize,
    taken: usize,
    outcomes: Outcomes,
}

impl<B: Backend> Scored<B> {
    /// For the micro-batches of a plan.
    pub(super) fn new(backend: &B, plan: &Plan, places: usize) -> Result<Self> {
        Ok(Self {
            kept: backend.allocate_arena(plan.outcome_bytes(places))?,
            places,
            put: 0,
            taken: 0,
            outcomes: Outcomes::sized(plan.batch),
        })
    }

    /// Forgets what nobody asked for.
    pub(super) fn clear(&mut self) {
        (self.put, self.taken) = (0, 0);
    }

    /// Puts in what the loss of a walk in `arena` left there. Errors where there is no place.
    pub(super) fn put(&mut self, backend: &B, plan: &Plan, arena: &B::Buffer) -> Result<()> {
        if self.put - self.taken == self.places {
            return Err(self.wrong("fewer micro-batches whose outcomes nobody took"));
        }
        backend.keep_outcomes(plan, arena, &mut self.kept, self.put % self.places)?;
        self.put += 1;
        Ok(())
    }

    /// Takes out the oldest, waiting for the device. Errors where there is none.
    pub(super) fn take(&mut self, backend: &B, plan: &Plan) -> Result<&Outcomes> {
        if self.put == self.taken {
            return Err(self.wrong("a micro-batch that was scored"));
        }
        let Outcomes { losses, ranks } = &mut self.outcomes;
        backend.kept_outcomes(plan, &self.kept, self.taken % self.places, losses, ranks)?;
        self.taken += 1;
        Ok(&self.outcomes)
    }

    fn wrong(&self, expected: &str) -> Error {
        let found = format!("{} scored, {} taken", self.put, self.taken);
        Error::invalid("outcomes of micro-batches", expected, found)
    }
}
