//! What is computed: a network as plain data.
//!
//! A VGG network is a chain. Its summary table, parameter names, FLOP counts, memory forecast and checkpoint layout are
//! all derived from this one description; no device and no batch size appears here.

mod builder;
mod dense;
pub mod init;
pub mod zoo;

pub use builder::Builder;
pub use dense::{adaptive, dense};
pub use zoo::{Config, Extent, POOLS, SMALLEST_INPUT, Spec};

use std::ops::Range;

use crate::shape::Chw;

/// A chain of layers from pixels to class scores (the input of the soft-max).
#[derive(Debug, Clone)]
pub struct Network {
    /// The layers, in the order of the forward pass.
    pub layers: Vec<Layer>,
    /// Every parameter array, layer by layer: weight, bias (batch norm: weight, bias, running mean, running variance).
    pub parameters: Vec<Parameter>,
    /// Shape of one input image.
    pub input: Chw,
    /// Number of classes.
    pub classes: usize,
}

/// One layer and the shapes that flow through it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The field's usual name: `conv1_1`, `bn1_1`, `relu1_1`, `lrn1_1`, `pool1`, `fc6`, `relu6`, `drop6`.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Shape of one image's input.
    pub input: Chw,
    /// Shape of one image's output.
    pub output: Chw,
    /// Its arrays in [`Network::parameters`]; empty for most.
    pub parameters: Range<usize>,
}

/// What a layer computes. Numbers that follow from the shapes are not repeated here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Convolution of stride 1 with a bias; square kernel, zero padding `(kernel - 1) / 2` that keeps the size.
    Conv {
        /// Side of the kernel, odd: 3, or 1 in configuration C.
        kernel: usize,
    },
    /// Batch normalisation per channel (Ioffe and Szegedy 2015, algorithm 1).
    BatchNorm,
    /// max(x, 0).
    Relu,
    /// Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).
    Lrn,
    /// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
    MaxPool,
    /// Fully connected layer with a bias; its input is flattened as (C, H, W).
    Linear,
    /// The same layer at every position of a square window: a convolution of stride 1 without padding, whose kernel is
    /// the window and whose filters (K, C, R, R) are the weights (out, in) as they lie. Made by [`dense()`].
    Windowed {
        /// Side of the window, R: that of the input that the layer was trained on.
        side: usize,
    },
    /// The map, whatever its size, as `side` x `side` means: torchvision's adaptive average pooling. Mean i of an edge of n
    /// pixels is over those from floor(i n / side) up to ceil((i + 1) n / side). Made by [`adaptive()`]; one mean is the
    /// global average.
    AveragePool {
        /// Means along each edge.
        side: usize,
    },
    /// Sets elements to zero with probability `p` and scales the rest by 1 / (1 - p), in training only.
    Dropout {
        /// Probability of dropping an element.
        p: f32,
    },
}

/// Constants of local response normalisation, as Krizhevsky et al. 2012 print them. Caffe, PyTorch and ONNX divide
/// alpha by n: use 5e-4 there.
pub mod lrn {
    /// Channels in the window.
    pub const N: usize = 5;
    /// The additive constant.
    pub const K: f32 = 2.0;
    /// The factor of the sum of squares.
    pub const ALPHA: f32 = 1e-4;
    /// The exponent; x^0.75 is computed by square roots, never by the host's `pow`.
    pub const BETA: f32 = 0.75;
}

/// Constants of batch normalisation, as PyTorch sets them.
pub mod batch_norm {
    /// Added to the variance.
    pub const EPSILON: f32 = 1e-5;
    /// Weight of the new statistics in the running ones.
    pub const MOMENTUM: f32 = 0.1;
}

/// One array of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// torchvision's name: `features.0.weight`, `classifier.6.bias` ...
    pub name: String,
    /// Index of the layer in [`Network::layers`].
    pub layer: usize,
    /// What it is to its layer.
    pub role: Role,
    /// Shape in torch's layout: (K, C, R, S) of a convolution, (out, in) of a linear layer, (C) of the rest.
    pub dims: Vec<usize>,
    /// First element in the flat vector of all parameters (weights, gradients and momentum share this layout).
    /// A multiple of [`PARAMETER_ALIGNMENT`]; the gaps are zero.
    pub offset: usize,
}

/// Elements to which the start of every parameter array is aligned: 64 bytes.
pub const PARAMETER_ALIGNMENT: usize = 16;

/// What an array is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weight of a convolution or linear layer.
    Weight,
    /// Bias of a convolution or linear layer.
    Bias,
    /// Batch norm's factor (gamma).
    Scale,
    /// Batch norm's summand (beta).
    Shift,
    /// Batch norm's running mean: a statistic, not learned.
    RunningMean,
    /// Batch norm's running (unbiased) variance: a statistic, not learned.
    RunningVariance,
}

impl Role {
    /// Whether gradient descent changes it. Statistics are averaged instead.
    pub fn is_learned(self) -> bool {
        match self {
            Self::Weight | Self::Bias | Self::Scale | Self::Shift => true,
            Self::RunningMean | Self::RunningVariance => false,
        }
    }
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements in the flat vector of all parameters.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

impl Layer {
    /// Multiply-accumulates of one image's forward pass: convolutions and fully connected layers only.
    pub fn macs(&self) -> u64 {
        let macs = match self.op {
            Op::Conv { kernel } => self.output.len() * self.input.c * kernel * kernel,
            Op::Linear => self.output.len() * self.input.len(),
            Op::Windowed { side } => self.output.len() * self.input.c * side * side,
            Op::BatchNorm
            | Op::Relu
            | Op::Lrn
            | Op::MaxPool
            | Op::AveragePool { .. }
            | Op::Dropout { .. } => 0,
        };
        macs as u64
    }

    /// The word that tables show: `conv3x3`, `linear`, `max_pool` ...
    pub fn kind(&self) -> String {
        match self.op {
            Op::Conv { kernel } => format!("conv{kernel}x{kernel}"),
            Op::BatchNorm => "batch_norm".into(),
            Op::Relu => "relu".into(),
            Op::Lrn => "lrn".into(),
            Op::MaxPool => "max_pool".into(),
            Op::AveragePool { .. } => "average_pool".into(),
            Op::Linear => "linear".into(),
            Op::Windowed { side } => format!("conv{side}x{side}"),
            Op::Dropout { .. } => "dropout".into(),
        }
    }
}

impl Network {
    /// Number of learned parameters; running statistics are not counted.
    pub fn parameter_count(&self) -> u64 {
        self.parameters
            .iter()
            .filter(|p| p.role.is_learned())
            .map(|p| p.len() as u64)
            .sum()
    }

    /// Whether it only gives scores, as networks that were made for whole images do: no loss, no backward pass.
    pub fn only_scores(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| matches!(layer.op, Op::Windowed { .. } | Op::AveragePool { .. }))
    }

    /// Multiply-accumulates of one image's forward pass.
    pub fn macs(&self) -> u64 {
        self.layers.iter().map(Layer::macs).sum()
    }

    /// Length of the flat vector that holds every parameter at its offset, gaps included.
    pub fn flat_len(&self) -> usize {
        self.parameters
            .last()
            .map_or(0, |p| p.range().end.next_multiple_of(PARAMETER_ALIGNMENT))
    }
}
