//! What varies from step to step, and the update rule.

use crate::data::loader::Slot;
use crate::data::preprocess::Flip;
use crate::network::{Parameter, Role};

/// Everything that varies between two runs of the same plan. Reaches every kernel as one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepParams {
    /// Key of every random draw.
    pub seed: u64,
    /// The optimisation step, counted from 0.
    pub step: u64,
    /// Absolute stream position of the micro-batch's first sample; sample `n` is at `position + n`.
    pub position: u64,
    /// Learning rate of this step.
    pub learning_rate: f32,
}

/// The images of one micro-batch, as the loader delivers them.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Cropped pixels, (N, H, W, 3), RGB.
    pub pixels: &'a [u8],
    /// Whether to mirror each image, (N).
    pub flips: &'a [Flip],
    /// What to add to R, G and B before preprocessing, in levels of 0..255, (N).
    pub colours: &'a [[f32; 3]],
    /// Class indices, (N).
    pub labels: &'a [u32],
}

impl Batch<'_> {
    /// No images: of passes that read none.
    pub const NONE: Self = Self {
        pixels: &[],
        flips: &[],
        colours: &[],
        labels: &[],
    };

    /// What a loader has prepared for training.
    pub fn of<M: AsRef<[u8]>>(slot: &Slot<M>) -> Batch<'_> {
        Batch {
            pixels: slot.pixels.as_ref(),
            flips: &slot.flips,
            colours: &slot.colours,
            labels: &slot.labels,
        }
    }
}

/// The paper's update (Krizhevsky et al. 2012, section 5; Caffe's SGD):
/// `v <- momentum * v - lr * (g / B + decay * w); w <- w + v`.
///
/// In f32 with explicit fused multiply-adds, so that every back end gives the same bits:
/// `t = fma(decay, w, g / B); v = fma(momentum, v, -(lr * t)); w = w + v`.
/// Running statistics: `r = fma(m, g / M - r, r)` with the sum `g` of the M micro-batches' statistics and
/// m = [`batch_norm::MOMENTUM`](crate::network::batch_norm::MOMENTUM).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateRule {
    /// 0.9 in the paper.
    pub momentum: f32,
    /// L2 multiplier; 5e-4 in the paper.
    pub weight_decay: f32,
    /// Multiplier of the decay for biases (and batch norm's shift).
    pub bias_decay: f32,
    /// Multiplier of the learning rate for biases (and batch norm's shift).
    pub bias_lr: f32,
    /// Global batch B: the gradient sum is divided by it here, once.
    pub batch: usize,
    /// Micro-batches M per step.
    pub micro_batches: usize,
}

impl UpdateRule {
    /// Learning rate and decay of one array at the step's learning rate.
    pub fn rates(&self, parameter: &Parameter, learning_rate: f32) -> (f32, f32) {
        match parameter.role {
            Role::Weight | Role::Scale => (learning_rate, self.weight_decay),
            Role::Bias | Role::Shift => (learning_rate * self.bias_lr, self.weight_decay * self.bias_decay),
            Role::RunningMean | Role::RunningVariance => (0.0, 0.0),
        }
    }
}
