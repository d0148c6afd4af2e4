//! Convolution of stride 1 with size-preserving zero padding: forward, data gradient and filter gradient.
//!
//! x and dx: (N, C/16, H, W, 16); y and dy: (N, K/16, H, W, 16); w and dw: (K, C, R, R); bias and db: (K).
//!
//! Forward and data gradient are the same sum, a correlation: the data gradient is that of dy with the filters turned
//! round, `dx[n,c] = sum over k of dy[n,k] * w[k,c,-r,-s]`. There are two methods for all passes: [`winograd`] and
//! [`direct`].

mod algorithm;
mod direct;
mod kept;
mod winograd;

pub use algorithm::ConvAlgorithm;
pub(super) use kept::{KeptFilters, Weights, bytes as kept_bytes};

use super::elementwise::mask_in_place;
use super::layout::{image_len, padded, tensor_bytes};
use super::max_pool::{self, Choice};
use super::memory::f32_bytes;
use super::team::Parts;
use super::tile::LANES;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Epilogue, Footprint, Step, ValueGradient};
use crate::shape::Chw;
use winograd::TileSize;

/// Bytes of a tensor, or of transformed filters, above which they are written past the caches: they would not stay there
/// until they are used.
const STREAMED_BYTES: usize = 10 << 20;

/// How one layer is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Winograd(TileSize),
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
        let Chw { c, h, w } = step.input;
        Self {
            batch: step.batch,
            inputs: c,
            outputs: step.output.c,
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

    /// Whether the outputs, written without pooling, are written past the caches.
    fn streams(self) -> bool {
        f32_bytes(self.batch * padded(self.outputs) * self.plane()) > STREAMED_BYTES
    }

    fn pad(self) -> usize {
        (self.kernel - 1) / 2
    }

    /// What all passes of the layer with this forward shape use.
    fn method(self, algorithm: ConvAlgorithm) -> Method {
        if self.kernel != 3 {
            return Method::Direct;
        }
        match algorithm {
            ConvAlgorithm::Auto if self.winograd_pays() => Method::Winograd(TileSize::Four),
            ConvAlgorithm::Winograd4 => Method::Winograd(TileSize::Four),
            ConvAlgorithm::Winograd2 => Method::Winograd(TileSize::Two),
            ConvAlgorithm::Auto | ConvAlgorithm::Direct => Method::Direct,
        }
    }

    /// Whether with tiles of 4x4 outputs two thirds of the products are left, or fewer, padding of channels and of tiles
    /// counted. The rest pays for the transforms.
    fn winograd_pays(self) -> bool {
        let winograd = TileSize::Four.products(self.height, self.width) * padded(self.inputs);
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
    /// The bias (K) is added; then perhaps the ReLU.
    Forward { bias: &'a [f32], relu: bool },
    /// The bias (K) is added; then the ReLU, and the maximum of 2x2 windows. What is written has half the height and
    /// width, and the choices have its shape.
    Pooled {
        bias: &'a [f32],
        choices: Parts<'a, Choice>,
    },
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
            Self::Forward { bias, .. } | Self::Pooled { bias, .. } => {
                summands[..lanes].copy_from_slice(&bias[group * LANES..][..lanes])
            }
            Self::Masked { .. } | Self::Plain => {}
        }
        summands
    }
}

/// How all passes of a layer are computed, as reports call it.
pub(super) fn algorithm(cpu: &Cpu, step: &Step, kernel: usize) -> &'static str {
    match Shape::forward(step, kernel).method(cpu.convolution) {
        Method::Winograd(TileSize::Four) => ConvAlgorithm::Winograd4.name(),
        Method::Winograd(TileSize::Two) => ConvAlgorithm::Winograd2.name(),
        Method::Direct => ConvAlgorithm::Direct.name(),
    }
}

/// What part of the direct sums' multiplications all passes of a layer do, tiles that fill the plane assumed: what they
/// do beyond the plane is time lost.
pub(super) fn share_of_products(cpu: &Cpu, step: &Step, kernel: usize) -> f64 {
    match Shape::forward(step, kernel).method(cpu.convolution) {
        Method::Winograd(size) => size.share_of_products(),
        Method::Direct => 1.0,
    }
}

/// Shape of the sums of one image, before a pooling.
fn sums_of(step: &Step) -> Chw {
    Chw::new(step.output.c, step.input.h, step.input.w)
}

/// Elements of the gradient of the sums where it is not the gradient of the value.
fn spread_gradient(step: &Step, epilogue: Epilogue) -> usize {
    match epilogue {
        Epilogue::ReluPool => step.batch * image_len(sums_of(step)),
        Epilogue::None | Epilogue::Relu => 0,
    }
}

pub(super) fn footprint(cpu: &Cpu, step: &Step, kernel: usize, epilogue: Epilogue) -> Footprint {
    let shape = Shape::forward(step, kernel);
    let threads = cpu.team.threads();
    let correlate = |shape: Shape, method| match method {
        Method::Winograd(size) => winograd::scratch(shape, size, threads),
        Method::Direct => direct::scratch(shape, threads),
    };
    let method = shape.method(cpu.convolution);
    let data = match step.data_gradient {
        DataGradient::None => 0,
        DataGradient::Plain | DataGradient::Masked => correlate(shape.reversed(), method),
    };
    let filter = match method {
        Method::Winograd(size) => winograd::gradient_scratch(shape, size, threads),
        Method::Direct => direct::gradient_scratch(shape),
    };
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        saved: match epilogue {
            Epilogue::ReluPool => max_pool::choices_bytes(step.batch, step.output),
            Epilogue::None | Epilogue::Relu => 0,
        },
        forward_scratch: f32_bytes(correlate(shape, method)),
        backward_scratch: f32_bytes(spread_gradient(step, epilogue) + data.max(filter)),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
    }
}

/// `y = epilogue(bias[k] + sum over c, r, s of w[k,c,r,s] * x[.., i+r-P, j+s-P])`.
pub(super) fn forward(
    cpu: &Cpu,
    step: &Step,
    kernel: usize,
    epilogue: Epilogue,
    weights: Weights,
    views: &mut Views<'_>,
) {
    let shape = Shape::forward(step, kernel);
    let method = shape.method(cpu.convolution);
    let filters = (views.weights[0], Orientation::Straight);
    let bias = views.weights[1];
    let relu = epilogue != Epilogue::None;
    let x = views.input;
    let finish = match epilogue {
        Epilogue::ReluPool => {
            let choices = max_pool::choices_mut(step.batch, step.output, views.saved);
            let choices = Parts::new(choices);
            Finish::Pooled { bias, choices }
        }
        Epilogue::None | Epilogue::Relu => Finish::Forward { bias, relu },
    };
    let (scratch, y) = (&mut *views.scratch, &mut *views.value);
    match method {
        Method::Winograd(size) => {
            correlate_with_kept(cpu, (shape, size), x, (weights, filters), finish, scratch, y);
        }
        Method::Direct => direct::correlate(cpu, shape, x, filters, finish, scratch, y),
    }
}

/// [`winograd::correlate`] with filters that are kept, where they are.
fn correlate_with_kept(
    cpu: &Cpu,
    layer: (Shape, TileSize),
    x: &[f32],
    (weights, filters): (Weights, (&[f32], Orientation)),
    finish: Finish<'_>,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let len = winograd::filter_elements(layer.0, layer.1);
    let is_done = cpu.filters.with(weights, filters.1, len, |u, is_stale| {
        if is_stale {
            winograd::transform_filters(cpu, layer, filters, u);
        }
        winograd::correlate_with(cpu, layer, x, u, finish, scratch, y);
    });
    if !is_done {
        winograd::correlate(cpu, layer, x, filters, finish, scratch, y);
    }
}

/// dw, db and, where it is wanted, dx. Overwrites all of them; masks dy in place where that is left to this
/// step.
pub(super) fn backward(
    cpu: &Cpu,
    step: &Step,
    kernel: usize,
    epilogue: Epilogue,
    weights: Weights,
    views: &mut Views<'_>,
) {
    let shape = Shape::forward(step, kernel);
    let (spread, scratch) = views.scratch.split_at_mut(spread_gradient(step, epilogue));
    let dy = match (epilogue, step.value_gradient) {
        (Epilogue::ReluPool, _) => {
            let y = Some(&*views.value);
            max_pool::spread(cpu, sums_of(step), views.saved, views.gradient, y, spread);
            &*spread
        }
        (Epilogue::Relu, ValueGradient::Raw) => {
            mask_in_place(cpu, views.value, views.gradient);
            &*views.gradient
        }
        (Epilogue::Relu, ValueGradient::Masked) | (Epilogue::None, _) => &*views.gradient,
    };
    let method = shape.method(cpu.convolution);
    let [dw, db, ..] = &mut views.weight_gradients;
    let (operands, gradients) = ((views.input, dy), (&mut **dw, &mut **db));
    match method {
        Method::Winograd(size) => {
            winograd::filter_gradient(cpu, (shape, size), operands, scratch, gradients);
        }
        Method::Direct => direct::filter_gradient(cpu, shape, operands, scratch, gradients),
    }
    let finish = match step.data_gradient {
        DataGradient::None => return,
        DataGradient::Masked => Finish::Masked { input: views.input },
        DataGradient::Plain => Finish::Plain,
    };
    let filters = (views.weights[0], Orientation::Turned);
    let (shape, dx) = (shape.reversed(), &mut *views.input_gradient);
    match method {
        Method::Winograd(size) => {
            correlate_with_kept(cpu, (shape, size), dy, (weights, filters), finish, scratch, dx);
        }
        Method::Direct => direct::correlate(cpu, shape, dy, filters, finish, scratch, dx),
    }
}
