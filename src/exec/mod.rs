//! Walks a plan on a back end.
//!
//! [`Inference`] owns what evaluation of one size of images needs, [`Scorer`] what it needs for images of any size;
//! [`Training`] fills the gradient slots of one replica's part of the reduction tree; [`Parameters`] are what the sum of
//! all replicas changes. None knows where images come from or why a learning rate is what it is.

mod images;
mod inference;
mod parameters;
mod scored;
mod scores;
mod training;

pub use images::load;
pub use inference::Inference;
pub use parameters::{Parameters, ParametersView, SharedParameters};
pub use scores::Scorer;
pub use training::{BitFlip, Flipped, Shape, StateFolds, Training, Validation};

use crate::backend::Backend;
use crate::error::Result;
pub use crate::plan::IN_FLIGHT;
#[cfg(doc)]
use crate::plan::Plan;
use crate::plan::{Batch, Bucket};

/// What the forward pass of one micro-batch says about its samples, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes {
    /// Cross-entropy of each sample.
    pub losses: Vec<f32>,
    /// Number of classes that score above the true one.
    pub ranks: Vec<u32>,
}

impl Outcomes {
    fn sized(batch: usize) -> Self {
        Self {
            losses: vec![0.0; batch],
            ranks: vec![0; batch],
        }
    }

    /// Sum of the losses, in order, in f64.
    pub fn loss_sum(&self) -> f64 {
        self.losses.iter().map(|&loss| f64::from(loss)).sum()
    }
}

/// Scores micro-batches with weights that do not change. Up to [`IN_FLIGHT`] can be under way.
pub trait Score {
    /// Begins with one. Its images have been read when this returns.
    fn submit(&mut self, batch: Batch<'_>) -> Result<()>;

    /// What the oldest one that is under way gives, waiting for it.
    fn collect(&mut self) -> Result<&Outcomes>;
}

/// What a fold was taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoldOf {
    /// The value of a step.
    Forward,
    /// The gradient of a step's input.
    DataGradient,
    /// One micro-batch's gradient of a step's parameters.
    ParameterGradient,
}

/// Looks on while a micro-batch is computed.
pub trait Watch<B: Backend> {
    /// Whether folds are wanted; they cost a pass over what they fold.
    fn wants_folds(&self) -> bool {
        false
    }

    /// The fold of something that step `layer` has just computed. Micro-batches count from the replica's first.
    fn fold(&mut self, _micro_batch: usize, _layer: &str, _of: FoldOf, _fold: u64) {}

    /// Whether the fold of each bucket of micro-batch `micro_batch`'s leaf is wanted.
    fn wants_leaf(&self, _micro_batch: usize) -> bool {
        false
    }

    /// The fold of the next bucket of a wanted leaf, in the order of [`Plan::buckets`].
    fn leaf(&mut self, _fold: u64) {}

    /// The replica's gradient sum of a bucket is complete: nothing of its own will be added to it in this step.
    fn bucket_final(&mut self, _bucket: &Bucket, _sum: &mut B::Buffer) -> Result<()> {
        Ok(())
    }
}

/// Looks away.
pub struct Unwatched;

impl<B: Backend> Watch<B> for Unwatched {}
