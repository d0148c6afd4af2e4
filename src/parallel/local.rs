//! Replicas that are threads of this process, on the CPU or on one device: they read the same weights, and the last one
//! to finish its part of a step adds the sums and updates the weights for all.

use std::sync::Arc;

use super::meeting::{Gone, Meeting};
use super::{Group, Place};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::exec::{SharedParameters, Training};
use crate::plan::{Plan, StepParams, Tree, UpdateRule};

/// One of several replicas that share memory.
pub struct Local<'b, B: Backend> {
    place: Place,
    room: Arc<Room<'b, B>>,
}

/// What the replicas share.
struct Room<'b, B: Backend> {
    /// Adds and updates while all replicas wait.
    combiner: &'b B,
    parameters: SharedParameters<B>,
    messages: Meeting<Vec<u8>, Vec<Vec<u8>>>,
    sums: Meeting<B::Buffer, (B::Buffer, Result<()>)>,
}

impl<'b, B: Backend> Local<'b, B> {
    /// A group of `replicas`, a power of two, in the order of their ranks. `combiner` works while they wait for each
    /// other; it may be one of theirs.
    pub fn group(combiner: &'b B, replicas: usize, parameters: &SharedParameters<B>) -> Vec<Self> {
        let room = Arc::new(Room::new(combiner, replicas, parameters));
        let member = |rank| Self {
            place: Place { rank, replicas },
            room: Arc::clone(&room),
        };
        (0..replicas).map(member).collect()
    }

    /// A group of one.
    pub fn alone(backend: &'b B, parameters: &SharedParameters<B>) -> Self {
        Self {
            place: Place { rank: 0, replicas: 1 },
            room: Arc::new(Room::new(backend, 1, parameters)),
        }
    }

    fn lost(&self, gone: Gone, doing: &str) -> Error {
        Error::Replica {
            rank: gone.member,
            message: format!(
                "stopped without a word while replica {} waited to {doing}",
                self.place.rank
            ),
            exit: 8,
        }
    }
}

impl<B: Backend> Group<B> for Local<'_, B> {
    fn place(&self) -> Place {
        self.place
    }

    fn exchange(&mut self, message: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let to_all = |all: Vec<Vec<u8>>| vec![all; self.place.replicas];
        self.room
            .messages
            .meet(self.place.rank, message, to_all)
            .map_err(|gone| self.lost(gone, "hear what it says"))
    }

    fn update(
        &mut self,
        training: &mut Training<'_, B>,
        rule: &UpdateRule,
        params: &StepParams,
    ) -> Result<()> {
        if self.place.replicas > 1 {
            training.backend().wait()?; // another stream goes on
        }
        let sum = training.hand_out();
        let plan = training.plan();
        let combine = |sums| self.room.combine(sums, plan, rule, params);
        let (buffer, outcome) = self
            .room
            .sums
            .meet(self.place.rank, sum, combine)
            .map_err(|gone| self.lost(gone, "add its gradient"))?;
        training.take_back(buffer);
        outcome
    }
}

impl<B: Backend> Drop for Local<'_, B> {
    fn drop(&mut self) {
        self.room.messages.leave(self.place.rank);
        self.room.sums.leave(self.place.rank);
    }
}

impl<'b, B: Backend> Room<'b, B> {
    fn new(combiner: &'b B, replicas: usize, parameters: &SharedParameters<B>) -> Self {
        Self {
            combiner,
            parameters: parameters.clone(),
            messages: Meeting::new(replicas),
            sums: Meeting::new(replicas),
        }
    }

    /// Updates the parameters with the sum of `sums`; gives each replica a buffer back, and the outcome: in its own words
    /// to the first.
    fn combine(
        &self,
        mut sums: Vec<B::Buffer>,
        plan: &Plan,
        rule: &UpdateRule,
        params: &StepParams,
    ) -> Vec<(B::Buffer, Result<()>)> {
        let outcome = self.add_and_update(&mut sums, plan, rule, params);
        let others = outcome
            .as_ref()
            .err()
            .map(|error| (error.to_string(), error.exit_code()));
        let mut outcomes = vec![outcome];
        outcomes.resize_with(sums.len(), || {
            others.clone().map_or(Ok(()), |(message, exit)| {
                Err(Error::Replica {
                    rank: 0,
                    message,
                    exit,
                })
            })
        });
        sums.into_iter().zip(outcomes).collect()
    }

    fn add_and_update(
        &self,
        sums: &mut Vec<B::Buffer>,
        plan: &Plan,
        rule: &UpdateRule,
        params: &StepParams,
    ) -> Result<()> {
        let several = sums.len() > 1;
        add(self.combiner, sums, plan.flat_len)?;
        self.parameters
            .write()
            .update(self.combiner, plan, rule, params, &sums[0])?;
        if several { self.combiner.wait() } else { Ok(()) }
    }
}

/// Adds the replicas' sums in the order of the tree; the result is in the first buffer, the others may change places.
fn add<B: Backend>(backend: &B, sums: &mut Vec<B::Buffer>, elements: usize) -> Result<()> {
    let tree = Tree::new(sums.len());
    let mut spent = Vec::with_capacity(sums.len());
    let mut stack = Vec::with_capacity(tree.slots());
    let mut outcome = Ok(());
    for (rank, sum) in sums.drain(..).enumerate() {
        stack.push(sum);
        let merged = tree.merge(rank);
        if outcome.is_ok() && merged.start() != merged.end() {
            outcome = backend.tree_add(&mut stack[merged.clone()], 0..elements);
        }
        spent.extend(stack.drain(merged.start() + 1..));
    }
    sums.append(&mut stack);
    sums.append(&mut spent);
    outcome
}
