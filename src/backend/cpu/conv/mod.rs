//! Convolution of stride 1 with size-preserving zero padding: forward, data gradient and filter gradient.
//!
//! x and dx: (N, C, H, W); y and dy: (N, K, H, W); w and dw: (K, C, R, R); bias and db: (K).
//!
//! Forward and data gradient are the same sum ([`correlate`]): the data gradient is the correlation of dy
//! with the filters turned round, `dx[n,c] = sum over k of dy[n,k] * w[k,c,-r,-s]`. The filter gradient is in
//! [`filter`].

mod correlate;
mod filter;
mod pack;

use super::elementwise::mask_in_place;
use super::memory::f32_bytes;
use super::reduce::channel_sums;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Epilogue, Footprint, Step, ValueGradient};
use crate::shape::Chw;
use correlate::Finish;

/// The shape of a convolution, or of the correlation that is its data gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) batch: usize,
    /// Channels that are summed over.
    pub(super) inputs: usize,
    /// Channels that are made.
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// R, odd.
    pub(super) kernel: usize,
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

    /// Elements of all filters.
    fn filters(self) -> usize {
        self.outputs * self.inputs * self.taps()
    }
}

pub(super) fn footprint(step: &Step, kernel: usize, epilogue: Epilogue, threads: usize) -> Footprint {
    let shape = Shape::forward(step, kernel);
    let data = match step.data_gradient {
        DataGradient::None => 0,
        DataGradient::Plain | DataGradient::Masked => {
            shape.filters() + correlate::scratch(shape.reversed(), threads)
        }
    };
    Footprint {
        value: f32_bytes(step.batch * step.output.len()),
        gradient: f32_bytes(step.batch * step.output.len()),
        saved: 0,
        forward_scratch: f32_bytes(correlate::scratch(shape, threads)),
        backward_scratch: f32_bytes(data.max(filter::scratch(shape))),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
    }
}

/// `y = epilogue(bias[k] + sum over c, r, s of w[k,c,r,s] * x[.., i+r-P, j+s-P])`.
pub(super) fn forward(cpu: &Cpu, step: &Step, kernel: usize, epilogue: Epilogue, views: &mut Views<'_>) {
    let finish = Finish::Forward {
        bias: views.weights[1],
        epilogue,
    };
    let shape = Shape::forward(step, kernel);
    correlate::correlate(
        cpu,
        shape,
        views.input,
        views.weights[0],
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
    let [dw, db, ..] = &mut views.weight_gradients;
    filter::gradient(cpu, shape, views.input, views.gradient, views.scratch, dw);
    channel_sums(cpu, shape.batch, shape.plane(), views.gradient, db);
    if step.data_gradient != DataGradient::None {
        let (filters, scratch) = views.scratch.split_at_mut(shape.filters());
        correlate::turn_filters(cpu, shape, views.weights[0], filters);
        let finish = match step.data_gradient {
            DataGradient::Masked => Finish::Masked { input: views.input },
            DataGradient::Plain | DataGradient::None => Finish::Plain,
        };
        let reversed = shape.reversed();
        correlate::correlate(
            cpu,
            reversed,
            views.gradient,
            filters,
            finish,
            scratch,
            views.input_gradient,
        );
    }
}
