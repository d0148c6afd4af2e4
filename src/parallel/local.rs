//! Replicas that are threads of this process, on the CPU or on one device: they read the same weights, and the last one
//! to finish its part of a step adds the sums and updates the weights for all.

use std::sync::Arc;

use super::meeting::Meeting;
use super::talk::Talk;
use super::{Group, Place};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::exec::{SharedParameters, Training};
use crate::plan::{Plan, StepParams, Tree, UpdateRule};

/// One of several replicas that share memory.
pub struct Local<'b, B: Backend> {
    talk: Talk,
    room: Arc<Room<'b, B>>,
}

/// What the replicas share.
struct Room<'b, B: Backend> {
    /// Adds and updates while all replicas wait.
    combiner: &'b B,
    parameters: SharedParameters<B>,
    sums: Meeting<B::Buffer, (B::Buffer, Result<()>)>,
}

impl<'b, B: Backend> Local<'b, B> {
    /// A group of `replicas`, a power of two, in the order of their ranks. `combiner` works while they wait for each
    /// other; it may be one of theirs.
    pub fn group(combiner: &'b B, replicas: usize, parameters: &SharedParameters<B>) -> Vec<Self> {
        let room = Arc::new(Room {
            combiner,
            parameters: parameters.clone(),
            sums: Meeting::new(replicas),
        });
        let member = |talk| Self {
            talk,
            room: Arc::clone(&room),
        };
        Talk::among(replicas, None).map(member).collect()
    }

    /// A group of one.
    pub fn alone(backend: &'b B, parameters: &SharedParameters<B>) -> Self {
        let mut group = Self::group(backend, 1, parameters);
        group.remove(0)
    }
}

impl<B: Backend> Group<B> for Local<'_, B> {
    fn place(&self) -> Place {
        self.talk.place()
    }

    fn exchange(&mut self, message: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.talk.exchange(message)
    }

    fn last_words(&mut self, error: &Error) {
        self.talk.last_words(error);
    }

    fn update(
        &mut self,
        training: &mut Training<'_, B>,
        rule: &UpdateRule,
        params: &StepParams,
    ) -> Result<()> {
        let Place { rank, replicas, .. } = self.talk.place();
        if replicas > 1 {
            training.backend().wait()?; // another stream goes on
        }
        let sum = training.hand_out();
        let plan = training.plan();
        let combine = |sums| self.room.combine(sums, plan, rule, params);
        let (buffer, outcome) = self
            .room
            .sums
            .meet(rank, sum, combine)
            .map_err(|gone| self.talk.lost(gone, "add its gradient"))?;
        training.take_back(buffer);
        outcome
    }
}

impl<B: Backend> Drop for Local<'_, B> {
    fn drop(&mut self) {
        self.room.sums.leave(self.talk.place().rank, self.talk.words());
    }
}

impl<B: Backend> Room<'_, B> {
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
        add_in_tree(self.combiner, sums, plan.flat_len)?;
        self.parameters
            .write()
            .update(self.combiner, plan, rule, params, &sums[0])?;
        if several { self.combiner.wait() } else { Ok(()) }
    }
}

/// Adds the first `elements` of the replicas' sums in the order of the tree, into the first one's buffer.
pub fn add_in_tree<B: Backend>(backend: &B, sums: &mut Vec<B::Buffer>, elements: usize) -> Result<()> {
    let tree = Tree::new(sums.len());
    let mut outcome = Ok(());
    // The stack of partial sums, and whose buffers they are in.
    let (mut stack, mut owners) = (Vec::with_capacity(tree.slots()), Vec::with_capacity(tree.slots()));
    let mut spent = Vec::with_capacity(sums.len());
    for (rank, sum) in sums.drain(..).enumerate() {
        stack.push(sum);
        owners.push(rank);
        let merged = tree.merge(rank);
        if outcome.is_ok() && merged.start() != merged.end() {
            outcome = backend.tree_add(&mut stack[merged.clone()], 0..elements);
        }
        let first = merged.start() + 1;
        spent.extend(owners.drain(first..).zip(stack.drain(first..)));
    }
    spent.extend(owners.into_iter().zip(stack));
    spent.sort_by_key(|(owner, _)| *owner);
    sums.extend(spent.into_iter().map(|(_, sum)| sum));
    outcome
}
