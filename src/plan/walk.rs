//! In which order a step's micro-batches are walked.
//!
//! A leaf is a pure function of the weights, the seed and its images, and the tree adds leaves by their index, so the
//! order changes no bit. It decides how much memory a step takes, and how early its gradients can be sent away.

use std::fmt;
use std::iter;
use std::ops::Range;
use std::str::FromStr;

use super::Plan;
use crate::error::Error;

/// The order of the passes of a step's micro-batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WalkOrder {
    /// One micro-batch after the other, forward and backward, in one arena. Gradients become final during the last
    /// micro-batch's backward pass.
    #[default]
    DepthFirst,
    /// Of every micro-batch the forward pass and the backward pass of the fully connected layers, each in an arena of
    /// its own; then the convolutions' backward passes. The fully connected gradients, most of the bytes, are final
    /// before most of the backward work begins, which hides their way to other replicas.
    FullyConnectedFirst,
}

impl WalkOrder {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::DepthFirst, Self::FullyConnectedFirst];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::DepthFirst => "depth-first",
            Self::FullyConnectedFirst => "fc-first",
        }
    }

    /// Arenas that a step of `micro_batches` needs.
    pub fn arenas(self, micro_batches: usize) -> usize {
        match self {
            Self::DepthFirst => 1,
            Self::FullyConnectedFirst => micro_batches,
        }
    }

    /// The arena that `micro_batch` is computed in.
    pub fn arena(self, micro_batch: usize) -> usize {
        match self {
            Self::DepthFirst => 0,
            Self::FullyConnectedFirst => micro_batch,
        }
    }

    /// What is walked when the images of micro-batch `arrived` are there; those of the others are not.
    pub fn segments(
        self,
        plan: &Plan,
        micro_batches: usize,
        arrived: usize,
    ) -> impl Iterator<Item = Segment> + use<> {
        let all = plan.passes();
        let (first, rest) = match self {
            Self::DepthFirst => (0..all, all..all),
            Self::FullyConnectedFirst => {
                let head = passes_with_fully_connected_gradients(plan);
                (0..head, head..all)
            }
        };
        let whole = if arrived + 1 == micro_batches && !rest.is_empty() {
            0..micro_batches
        } else {
            0..0
        };
        let arrived = Segment {
            micro_batch: arrived,
            passes: first,
        };
        iter::once(arrived).chain(whole.map(move |micro_batch| Segment {
            micro_batch,
            passes: rest.clone(),
        }))
    }
}

/// How many passes of the schedule there are up to the backward pass of the first fully connected step.
fn passes_with_fully_connected_gradients(plan: &Plan) -> usize {
    let steps = plan.steps.len();
    let first = plan.steps.iter().position(|step| step.op.is_fully_connected());
    // All forward passes, then the backward passes of the steps from the last one down to `first`.
    first.map_or(plan.passes(), |first| steps + (steps - first))
}

impl fmt::Display for WalkOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WalkOrder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|order| order.name() == text)
            .ok_or_else(|| Error::invalid("--walk", "depth-first or fc-first", text))
    }
}

/// Consecutive passes of one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Index within the step.
    pub micro_batch: usize,
    /// Its passes, by their place in [`Plan::schedule`].
    pub passes: Range<usize>,
}
