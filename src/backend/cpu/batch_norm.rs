//! Batch normalisation per channel (Ioffe and Szegedy 2015, algorithm 1).
//!
//! x, dx, y and dy: (N, C, H, W); gamma, beta, mean and variance: (C). A channel has m = N * H * W elements.
//!
//! `y = gamma * z + beta` with `z = (x - mean) / sqrt(variance + epsilon)`. In training mean and (biased)
//! variance are the micro-batch's; saved for the backward pass: mean, `1 / sqrt(variance + epsilon)` and the unbiased
//! variance of every channel. The mean is kept as two f32, `mean + rest`: where the values of a channel nearly coincide, `x - mean`
//! is as small as what rounding takes from the mean. `x - mean` is exact then, and the rest goes into what is the same
//! for the whole channel.

use super::elementwise::mask_in_place;
use super::isa::multiversion;
use super::memory::f32_bytes;
use super::reduce::{squares_around, sum, sum_and_moment};
use super::team::Parts;
use super::{Cpu, Views};
use crate::network::batch_norm::EPSILON;
use crate::plan::{DataGradient, Epilogue, Footprint, Mode, Step, ValueGradient};

/// Saved numbers of a channel: mean and its rest, inverse deviation, unbiased variance.
const SAVED: usize = 4;

pub(super) fn footprint(step: &Step, epilogue: Epilogue) -> Footprint {
    Footprint {
        value: f32_bytes(step.batch * step.output.len()),
        gradient: f32_bytes(step.batch * step.output.len()),
        saved: f32_bytes(SAVED * step.output.c),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
        ..Footprint::default()
    }
}

/// Overwrites y, in training also what is saved.
pub(super) fn forward(cpu: &Cpu, step: &Step, mode: Mode, epilogue: Epilogue, views: &mut Views<'_>) {
    let plane = step.output.plane();
    let channels = step.output.c;
    let x = views.input;
    let [gamma, beta, running_mean, running_variance] = views.weights;
    let y = Parts::new(views.value);
    let normalise = |c: usize, [mean, rest]: [f32; 2], inverse: f32| {
        let factor = gamma[c] * inverse;
        let affine = Affine {
            mean,
            factor,
            summand: (-rest).mul_add(factor, beta[c]),
            relu: epilogue != Epilogue::None,
        };
        for n in 0..step.batch {
            let start = (n * channels + c) * plane;
            // SAFETY: one task has this channel.
            let y = unsafe { y.range(start, plane) };
            apply(cpu.isa, affine, &x[start..start + plane], y);
        }
    };
    if mode == Mode::Evaluation {
        return cpu.team.run(channels, |c, _| {
            normalise(
                c,
                [running_mean[c], 0.0],
                inverse_deviation(f64::from(running_variance[c])),
            );
        });
    }
    let count = (step.batch * plane) as f64;
    let saved = Parts::new(views.saved);
    cpu.team.run(channels, |c, _| {
        let images = || (0..step.batch).map(|n| &x[(n * channels + c) * plane..][..plane]);
        let exact = images().map(|x| sum(cpu.isa, x)[0]).sum::<f64>() / count;
        let mean = exact as f32;
        let rest = (exact - f64::from(mean)) as f32;
        let around: f64 = images().map(|x| squares_around(cpu.isa, x, mean)[0]).sum();
        let squares = (around - count * f64::from(rest) * f64::from(rest)).max(0.0);
        let inverse = inverse_deviation(squares / count);
        let unbiased = (squares / (count - 1.0).max(1.0)) as f32;
        // SAFETY: one task has this channel.
        unsafe { saved.range(SAVED * c, SAVED) }.copy_from_slice(&[mean, rest, inverse, unbiased]);
        normalise(c, [mean, rest], inverse);
    });
}

fn inverse_deviation(variance: f64) -> f32 {
    (1.0 / (variance + f64::from(EPSILON)).sqrt()) as f32
}

#[derive(Clone, Copy)]
struct Affine {
    mean: f32,
    factor: f32,
    summand: f32,
    relu: bool,
}

multiversion! {
    /// `y = fma(x - mean, factor, summand)`, then the ReLU if there is one.
    fn apply(affine: Affine, x: &[f32], y: &mut [f32]) {
        let Affine { mean, factor, summand, relu } = affine;
        for (y, &x) in y.iter_mut().zip(x) {
            let value = (x - mean).mul_add(factor, summand);
            *y = if relu && value < 0.0 { 0.0 } else { value };
        }
    }
}

/// `dgamma = sum of dy * z`, `dbeta = sum of dy` and, where it is wanted,
/// `dx = gamma / sqrt(variance + epsilon) * (dy - dbeta / m - z * dgamma / m)`. Overwrites all of them, and in the
/// places of the running statistics' gradients puts the micro-batch's mean and unbiased variance.
pub(super) fn backward(cpu: &Cpu, step: &Step, epilogue: Epilogue, views: &mut Views<'_>) {
    if epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw {
        mask_in_place(cpu, views.value, views.gradient);
    }
    let plane = step.output.plane();
    let channels = step.output.c;
    let count = (step.batch * plane) as f64;
    let (x, dy, saved) = (views.input, &*views.gradient, &*views.saved);
    let gamma = views.weights[0];
    let dx = Parts::new(views.input_gradient);
    let wants_dx = step.data_gradient != DataGradient::None;
    let [dgamma, dbeta, means, variances] = &mut views.weight_gradients;
    let statistics = saved
        .chunks_exact(SAVED)
        .zip(means.iter_mut().zip(variances.iter_mut()));
    for (saved, (mean, variance)) in statistics {
        (*mean, *variance) = (saved[0], saved[3]);
    }
    cpu.team.chunks2((dgamma, 1), (dbeta, 1), |c, dgamma, dbeta| {
        let [mean, rest, inverse] = [0, 1, 2].map(|i| saved[SAVED * c + i]);
        let (mut total, mut moment) = (0.0, 0.0);
        for n in 0..step.batch {
            let start = (n * channels + c) * plane;
            let image = start..start + plane;
            let sums = sum_and_moment(cpu.isa, &dy[image.clone()], &x[image], mean);
            total += sums[0];
            moment += sums[1];
        }
        let (scale, rest) = (f64::from(inverse), f64::from(rest));
        moment -= rest * total;
        dgamma[0] = (moment * scale) as f32;
        dbeta[0] = total as f32;
        if !wants_dx {
            return;
        }
        let slope = -(moment * scale * scale / count);
        let terms = Terms {
            mean,
            factor: gamma[c] * inverse,
            slope: slope as f32,
            level: (total / count + rest * slope) as f32,
        };
        for n in 0..step.batch {
            let start = (n * channels + c) * plane;
            let image = start..start + plane;
            // SAFETY: one task has this channel.
            let dx = unsafe { dx.range(start, plane) };
            differentiate(cpu.isa, terms, &x[image.clone()], &dy[image], dx);
        }
    });
}

#[derive(Clone, Copy)]
struct Terms {
    mean: f32,
    factor: f32,
    slope: f32,
    level: f32,
}

multiversion! {
    /// `dx = factor * fma(x - mean, slope, dy - level)`.
    fn differentiate(terms: Terms, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let Terms { mean, factor, slope, level } = terms;
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = factor * (x - mean).mul_add(slope, dy - level);
        }
    }
}
