//! Convolution of stride 1 with size-preserving zero padding: forward, data gradient and filter gradient.
//!
//! x and dx: (N, C/16, H, W, 16); y and dy: (N, K/16, H, W, 16); w and dw: (K, C, R, R); bias and db: (K).
//!
//! Forward and data gradient are the same sum, a correlation: the data gradient is that of dy with the filters turned
//! round, `dx[n,c] = sum over k of dy[n,k] * w[k,c,-r,-s]`. There are two methods for all passes: [`winograd`] and
//! [`direct`].

mod direct;
mod winograd;

use std::fmt;
use std::str::FromStr;

use super::elementwise::mask_in_place;
use super::layout::{padded, tensor_bytes};
use super::memory::f32_bytes;
use super::tile::LANES;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Epilogue, Footprint, Step, ValueGradient};
use crate::shape::Chw;

/// How convolutions are computed. Their rounding differs, so it is part of what a run's bits depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConvAlgorithm {
    /// Winograd where it pays, direct elsewhere: a function of the layer's shape.
    #[default]
    Auto,
    /// Winograd F(4x4, 3x3) for every 3x3 filter.
    Winograd4,
    /// Sums of products as they are written down.
    Direct,
}

impl ConvAlgorithm {
    /// All of them, by name.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("winograd4", Self::Winograd4),
        ("direct", Self::Direct),
    ];
}

impl fmt::Display for ConvAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Winograd4 => "winograd4",
            Self::Direct => "direct",
        })
    }
}

impl FromStr for ConvAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, algorithm)| *algorithm)
            .ok_or_else(|| format!("expected auto, winograd4 or direct, found '{text}'"))
    }
}

/// How one layer is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Winograd,
    Direct,
}

/// The shape of a convolution, or of the correlation that is its data gradient.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    /// Channels that are summed over.
    inputs: usize,
    /// Channels that are made.
    outputs: usize,
    height: usize,
    width: usize,
    /// R, odd.
    kernel: usize,
}

impl Shape {
    fn forward(step: &Step, kernel: usize) -> Self {
        let Chw { c, h, w } = step.output;
        Self {
            batch: step.batch,
            inputs: step.input.c,
            outputs: c,
            height: h,
            width: w,
            kernel,
        }
    }

    /// The correlation that makes dx of dy.
    fn reversed(self) -> Self {
        Self {
            inputs: self.outputs,
            outputs: self.inputs,
            ..self
        }
    }

    /// Pixels of one channel.
    fn plane(self) -> usize {
        self.height * self.width
    }

    /// Elements of a filter over one channel.
    fn taps(self) -> usize {
        self.kernel * self.kernel
    }

    fn pad(self) -> usize {
        (self.kernel - 1) / 2
    }

    /// What all passes of the layer with this forward shape use.
    fn method(self, algorithm: ConvAlgorithm) -> Method {
        match algorithm {
            ConvAlgorithm::Winograd4 if self.kernel == 3 => Method::Winograd,
            ConvAlgorithm::Auto if self.kernel == 3 && self.winograd_pays() => Method::Winograd,
            ConvAlgorithm::Auto | ConvAlgorithm::Winograd4 | ConvAlgorithm::Direct => Method::Direct,
        }
    }

    /// Whether two thirds of the products are left, or fewer, padding of channels and of tiles counted. The rest pays
    /// for the transforms.
    fn winograd_pays(self) -> bool {
        let winograd = winograd::products(self.height, self.width) * padded(self.inputs);
        let direct = self.taps() * self.plane() * self.inputs;
        3 * winograd <= 2 * direct
    }
}

/// Which way the filters of a correlation lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orientation {
    /// As they are: (outputs, inputs, R, R).
    Straight,
    /// Turned round by 180 degrees: (inputs, outputs, R, R).
    Turned,
}

/// What happens to the sums of a correlation before they are written.
#[derive(Clone, Copy)]
enum Finish<'a> {
    /// The bias (K) is added; then the epilogue.
    Forward { bias: &'a [f32], epilogue: Epilogue },
    /// Zero where the input, of the shape of the sums, is not positive.
    Masked { input: &'a [f32] },
    /// Nothing.
    Plain,
}

impl Finish<'_> {
    /// What is added to the `lanes` channels of a group.
    fn bias(&self, group: usize, lanes: usize) -> [f32; LANES] {
        let mut summands = [0.0; LANES];
        match self {
            Self::Forward { bias, .. } => summands[..lanes].copy_from_slice(&bias[group * LANES..][..lanes]),
            Self::Masked { .. } | Self::Plain => {}
        }
        summands
    }
}

/// How all passes of a layer are computed, as reports call it.
pub(super) fn algorithm(cpu: &Cpu, step: &Step, kernel: usize) -> &'static str {
    match Shape::forward(step, kernel).method(cpu.convolution) {
        Method::Winograd => "winograd4",
        Method::Direct => "direct",
    }
}

pub(super) fn footprint(cpu: &Cpu, step: &Step, kernel: usize, epilogue: Epilogue) -> Footprint {
    let shape = Shape::forward(step, kernel);
    let threads = cpu.team.threads();
    let correlate = |shape: Shape, method| match method {
        Method::Winograd => winograd::scratch(shape),
        Method::Direct => direct::scratch(shape, threads),
    };
    let method = shape.method(cpu.convolution);
    let data = match step.data_gradient {
        DataGradient::None => 0,
        DataGradient::Plain | DataGradient::Masked => correlate(shape.reversed(), method),
    };
    let filter = match method {
        Method::Winograd => winograd::gradient_scratch(shape),
        Method::Direct => direct::gradient_scratch(shape),
    };
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        saved: 0,
        forward_scratch: f32_bytes(correlate(shape, method)),
        backward_scratch: f32_bytes(data.max(filter)),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
    }
}

/// `y = epilogue(bias[k] + sum over c, r, s of w[k,c,r,s] * x[.., i+r-P, j+s-P])`.
pub(super) fn forward(cpu: &Cpu, step: &Step, kernel: usize, epilogue: Epilogue, views: &mut Views<'_>) {
    let shape = Shape::forward(step, kernel);
    let finish = Finish::Forward {
        bias: views.weights[1],
        epilogue,
    };
    let filters = (views.weights[0], Orientation::Straight);
    let correlate = match shape.method(cpu.convolution) {
        Method::Winograd => winograd::correlate,
        Method::Direct => direct::correlate,
    };
    correlate(
        cpu,
        shape,
        views.input,
        filters,
        finish,
        views.scratch,
        views.value,
    );
}

/// dw, db and, where it is wanted, dx. Overwrites all of them; masks dy in place where that is left to this
/// step.
pub(super) fn backward(cpu: &Cpu, step: &Step, kernel: usize, epilogue: Epilogue, views: &mut Views<'_>) {
    let shape = Shape::forward(step, kernel);
    if epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw {
        mask_in_place(cpu, views.value, views.gradient);
    }
    let method = shape.method(cpu.convolution);
    let [dw, db, ..] = &mut views.weight_gradients;
    let filter_gradient = match method {
        Method::Winograd => winograd::filter_gradient,
        Method::Direct => direct::filter_gradient,
    };
    let operands = (views.input, &*views.gradient);
    filter_gradient(cpu, shape, operands, views.scratch, (dw, db));
    let finish = match step.data_gradient {
        DataGradient::None => return,
        DataGradient::Masked => Finish::Masked { input: views.input },
        DataGradient::Plain => Finish::Plain,
    };
    let filters = (views.weights[0], Orientation::Turned);
    let correlate = match method {
        Method::Winograd => winograd::correlate,
        Method::Direct => direct::correlate,
    };
    correlate(
        cpu,
        shape.reversed(),
        views.gradient,
        filters,
        finish,
        views.scratch,
        views.input_gradient,
    );
}
