//! Steps: what a back end executes.

use std::ops::Range;

use super::Plan;
use crate::shape::Chw;

/// What a step computes for a whole micro-batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StepOp {
    /// Pixels (u8, HWC) to the network's input: flip, colour shift, channel order, scale and shift.
    Input,
    /// Convolution with bias, stride 1, size-preserving zero padding.
    Conv {
        /// Side of the square kernel.
        kernel: usize,
        /// What follows in the same step.
        epilogue: Epilogue,
    },
    /// Gathers every square window of a map as a row, for the fully connected layers of dense evaluation: images
    /// (C, H, W) become [`Step::windows`] rows (C * side * side) each, window by window along the rows of the map.
    /// Evaluation only: it has no backward pass. [`Step::batch`] counts its rows.
    Windows {
        /// Side of a window.
        side: usize,
    },
    /// Means over the `side` x `side` parts of a map, whatever its size: [`Step::part`]. Evaluation only.
    AveragePool {
        /// Means along each edge.
        side: usize,
    },
    /// Fully connected layer with bias.
    Linear {
        /// What follows in the same step; never a pooling.
        epilogue: Epilogue,
    },
    /// Batch normalisation.
    BatchNorm {
        /// What follows in the same step; never a pooling.
        epilogue: Epilogue,
    },
    /// max(x, 0).
    Relu,
    /// Local response normalisation.
    Lrn,
    /// 2x2 maximum, stride 2.
    MaxPool,
    /// Dropout; the mask is drawn from (seed, position of the sample, [`StepOp::Dropout::layer`], logical element).
    Dropout {
        /// Probability of dropping.
        p: f32,
        /// The dropout's index among the network's layers: part of the random counter.
        layer: u16,
    },
    /// Soft-max, cross-entropy and the rank of the true class. Its value is the posteriors (N, classes); it saves a
    /// loss and a rank per sample. Its backward pass writes the gradient of the SUM of the losses.
    Loss,
}

impl StepOp {
    /// What follows in the same step.
    pub fn epilogue(self) -> Epilogue {
        match self {
            Self::Conv { epilogue, .. } | Self::Linear { epilogue } | Self::BatchNorm { epilogue } => {
                epilogue
            }
            Self::Input
            | Self::Windows { .. }
            | Self::AveragePool { .. }
            | Self::Relu
            | Self::Lrn
            | Self::MaxPool
            | Self::Dropout { .. }
            | Self::Loss => Epilogue::None,
        }
    }

    /// Whether it is a fully connected layer.
    pub fn is_fully_connected(self) -> bool {
        matches!(self, Self::Linear { .. })
    }
}

/// What a step does to its result before writing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// max(x, 0).
    Relu,
    /// max(x, 0), then the 2x2 maximum.
    ReluPool,
}

/// Whether a step computes the gradient of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataGradient {
    /// No: its input is the image.
    None,
    /// Yes.
    Plain,
    /// Yes, and sets it to zero where the input is not positive: the backward pass of the ReLU that made the input.
    Masked,
}

/// In which state a step finds the gradient of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueGradient {
    /// As the chain rule gives it: a step with a ReLU epilogue applies the mask itself.
    Raw,
    /// Already zero where the value is not positive.
    Masked,
}

/// One direction of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Input to value.
    Forward,
    /// Gradient of the value to gradients of the parameters and of the input. Both OVERWRITE their outputs.
    Backward,
}

/// Bytes of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// First byte; a multiple of [`Region::ALIGNMENT`].
    pub offset: usize,
    /// Length; 0 where the step does not need it.
    pub bytes: usize,
}

impl Region {
    /// Every region starts on a multiple of this many bytes.
    pub const ALIGNMENT: usize = 256;

    /// The bytes as a range.
    pub fn range(self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// The places of one step in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Regions {
    /// What the forward pass writes.
    pub value: Region,
    /// Gradient of the value: written by the next step's backward pass, read (and free to be overwritten) by this one's.
    pub gradient: Region,
    /// What the forward pass keeps for the backward pass besides values. Of the loss: a loss and a rank per sample.
    pub saved: Region,
    /// Undefined before and after the forward pass.
    pub forward_scratch: Region,
    /// Undefined before and after the backward pass.
    pub backward_scratch: Region,
}

/// One unit of work of a back end.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Name of its first layer, "input" or "loss".
    pub name: String,
    /// What it computes.
    pub op: StepOp,
    /// The network's layers that it implements.
    pub layers: Range<usize>,
    /// Images; from [`StepOp::Windows`] on, windows of all images.
    pub batch: usize,
    /// Logical shape of one image's input.
    pub input: Chw,
    /// Logical shape of one image's value.
    pub output: Chw,
    /// Its arrays in the plan's parameters.
    pub parameters: Range<usize>,
    /// Whether the gradient of the input is wanted.
    pub data_gradient: DataGradient,
    /// In which state the gradient of the value arrives.
    pub value_gradient: ValueGradient,
    /// Multiply-accumulates of the forward pass for the whole micro-batch.
    pub macs: u64,
    /// Its places in the arena.
    pub memory: Regions,
}

impl Step {
    /// Rows and columns of windows of a given side over the step's input.
    pub fn windows(&self, side: usize) -> (usize, usize) {
        (self.input.h + 1 - side, self.input.w + 1 - side)
    }

    /// Rows and columns of the step's input that mean (i, j) of its [`StepOp::AveragePool`] is over. Neighbours share a row
    /// or a column where the edge cannot be divided.
    pub fn part(&self, side: usize, (i, j): (usize, usize)) -> (Range<usize>, Range<usize>) {
        let of_edge = |i: usize, edge: usize| i * edge / side..((i + 1) * edge).div_ceil(side);
        (of_edge(i, self.input.h), of_edge(j, self.input.w))
    }
}

/// What a back end needs for a step, in bytes and in lifetimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// The value.
    pub value: usize,
    /// The gradient of the value.
    pub gradient: usize,
    /// State kept from the forward to the backward pass.
    pub saved: usize,
    /// Scratch of the forward pass.
    pub forward_scratch: usize,
    /// Scratch of the backward pass.
    pub backward_scratch: usize,
    /// Whether the backward pass reads the step's input.
    pub backward_reads_input: bool,
    /// Whether the backward pass reads the step's value.
    pub backward_reads_value: bool,
}

/// What the planner asks of a back end.
pub trait Lowering {
    /// Whether `op`, with its epilogue, is one step of this back end. Every operation without an epilogue is.
    fn accepts(&self, op: StepOp) -> bool;

    /// Whether the backward pass of `op` can mask the gradient that it writes ([`DataGradient::Masked`]).
    fn masks(&self, op: StepOp) -> bool;

    /// Memory of a step whose `memory` is not placed yet.
    fn footprint(&self, step: &Step) -> Footprint;

    /// Bytes that the back end and its threads use beside arena and parameters.
    fn workspace_bytes(&self, plan: &Plan) -> u64;

    /// Bytes of the weights, with any copy of them that the back end computes with.
    fn weight_bytes(&self, plan: &Plan) -> u64 {
        (plan.flat_len * size_of::<f32>()) as u64
    }
}
