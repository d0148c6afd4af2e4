//! Batch normalisation per channel (Ioffe and Szegedy 2015, algorithm 1).
//!
//! x, dx, y and dy: (N, C/16, H, W, 16); gamma, beta, mean and variance: (C). A channel has m = N * H * W elements.
//!
//! `y = gamma * z + beta` with `z = (x - mean) / sqrt(variance + epsilon)`. In training mean and (biased) variance are the
//! micro-batch's; saved for the backward pass: mean, `1 / sqrt(variance + epsilon)` and the unbiased variance of every
//! channel. The mean is kept as two f32, `mean + rest`: where the values of a channel nearly coincide, `x - mean` is as
//! small as what rounding takes from the mean. `x - mean` is exact then, and the rest goes into what is the same
//! for the whole channel.

use super::elementwise::mask_in_place;
use super::isa::multiversion;
use super::layout::{group_len, groups, lanes, tensor_bytes};
use super::memory::f32_bytes;
use super::reduce::{squares_around, sum, sum_and_moment};
use super::team::Parts;
use super::tile::LANES;
use super::{Cpu, Views};
use crate::network::batch_norm::EPSILON;
use crate::plan::{DataGradient, Epilogue, Footprint, Mode, Step, ValueGradient};

/// Saved numbers of a channel: mean and its rest, inverse deviation, unbiased variance.
const SAVED: usize = 4;

pub(super) fn footprint(step: &Step, epilogue: Epilogue) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        saved: f32_bytes(SAVED * step.output.c),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
        ..Footprint::default()
    }
}

/// Numbers of the 16 channels of a group; those of padding are 0.
type Channels = [f32; LANES];

/// The channels of one group of all images.
#[derive(Clone, Copy)]
struct Group {
    group: usize,
    groups: usize,
    /// First channel, and how many there are.
    first: usize,
    lanes: usize,
    batch: usize,
    /// Elements of one image of the group.
    len: usize,
}

impl Group {
    fn new(step: &Step, group: usize) -> Self {
        Self {
            group,
            groups: groups(step.output.c),
            first: group * LANES,
            lanes: lanes(step.output.c, group),
            batch: step.batch,
            len: group_len(step.output),
        }
    }

    /// Where the group lies in every image.
    fn images(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.batch).map(move |n| {
            let start = (n * self.groups + self.group) * self.len;
            start..start + self.len
        })
    }

    /// The group's part of an array with one number per channel.
    fn of(self, array: &[f32]) -> Channels {
        let mut channels = [0.0; LANES];
        channels[..self.lanes].copy_from_slice(&array[self.first..][..self.lanes]);
        channels
    }
}

/// Sums of f64 over the images.
fn total<const S: usize>(sums: impl Iterator<Item = [[f64; LANES]; S]>) -> [[f64; LANES]; S] {
    let mut totals = [[0.0; LANES]; S];
    for sums in sums {
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += sum;
            }
        }
    }
    totals
}

/// Overwrites y, in training also what is saved.
pub(super) fn forward(cpu: &Cpu, step: &Step, mode: Mode, epilogue: Epilogue, views: &mut Views<'_>) {
    let x = views.input;
    let [gamma, beta, running_mean, running_variance] = views.weights;
    let (y, saved) = (Parts::new(views.value), Parts::new(views.saved));
    cpu.team.run(groups(step.output.c), |group, _| {
        let group = Group::new(step, group);
        let (gamma, beta) = (group.of(gamma), group.of(beta));
        let mut affine = Affine::default();
        if mode == Mode::Evaluation {
            for l in 0..group.lanes {
                let c = group.first + l;
                let inverse = inverse_deviation(f64::from(running_variance[c]));
                affine.set(l, [running_mean[c], 0.0], inverse, gamma[l], beta[l]);
            }
        } else {
            let count = (step.batch * step.output.plane()) as f64;
            let [sums] = total(group.images().map(|image| sum(cpu.isa, &x[image])));
            let exact = sums.map(|sum| sum / count);
            let mean = exact.map(|mean| mean as f32);
            let [around] = total(
                group
                    .images()
                    .map(|image| squares_around(cpu.isa, &x[image], &mean)),
            );
            for l in 0..group.lanes {
                let rest = (exact[l] - f64::from(mean[l])) as f32;
                let squares = (around[l] - count * f64::from(rest) * f64::from(rest)).max(0.0);
                let inverse = inverse_deviation(squares / count);
                affine.set(l, [mean[l], rest], inverse, gamma[l], beta[l]);
                let unbiased = (squares / (count - 1.0).max(1.0)) as f32;
                // SAFETY: this task alone has this channel.
                let saved = unsafe { saved.range(SAVED * (group.first + l), SAVED) };
                saved.copy_from_slice(&[mean[l], rest, inverse, unbiased]);
            }
        }
        for image in group.images() {
            // SAFETY: this task alone has this group.
            let y = unsafe { y.range(image.start, image.len()) };
            apply(cpu.isa, &affine, epilogue != Epilogue::None, &x[image], y);
        }
    });
}

fn inverse_deviation(variance: f64) -> f32 {
    (1.0 / (variance + f64::from(EPSILON)).sqrt()) as f32
}

/// `fma(x - mean, factor, summand)`; zero for padding.
#[derive(Clone, Copy, Default)]
struct Affine {
    mean: Channels,
    factor: Channels,
    summand: Channels,
}

impl Affine {
    fn set(&mut self, lane: usize, [mean, rest]: [f32; 2], inverse: f32, gamma: f32, beta: f32) {
        let factor = gamma * inverse;
        self.mean[lane] = mean;
        self.factor[lane] = factor;
        self.summand[lane] = (-rest).mul_add(factor, beta);
    }
}

multiversion! {
    /// `y = fma(x - mean, factor, summand)`, then the ReLU if there is one.
    fn apply(affine: &Affine, relu: bool, x: &[f32], y: &mut [f32]) {
        let pixels = x.as_chunks::<LANES>().0.iter().zip(y.as_chunks_mut::<LANES>().0);
        for (x, y) in pixels {
            for l in 0..LANES {
                let value = (x[l] - affine.mean[l]).mul_add(affine.factor[l], affine.summand[l]);
                y[l] = if relu && value < 0.0 { 0.0 } else { value };
            }
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
    let count = (step.batch * step.output.plane()) as f64;
    let (x, dy, saved) = (views.input, &*views.gradient, &*views.saved);
    let gamma = views.weights[0];
    let dx = Parts::new(views.input_gradient);
    let wants_dx = step.data_gradient != DataGradient::None;
    let [dgamma, dbeta, means, variances] = &mut views.weight_gradients;
    let statistics = means.iter_mut().zip(variances.iter_mut());
    for (saved, (mean, variance)) in saved.chunks_exact(SAVED).zip(statistics) {
        (*mean, *variance) = (saved[0], saved[3]);
    }
    cpu.team
        .chunks2((dgamma, LANES), (dbeta, LANES), |index, dgamma, dbeta| {
            let group = Group::new(step, index);
            let mut mean = [0.0; LANES];
            for (l, mean) in mean.iter_mut().enumerate().take(group.lanes) {
                *mean = saved[SAVED * (group.first + l)];
            }
            let sums = group
                .images()
                .map(|image| sum_and_moment(cpu.isa, &dy[image.clone()], &x[image], &mean));
            let [totals, moments] = total(sums);
            let mut terms = Terms {
                mean,
                ..Terms::default()
            };
            for l in 0..group.lanes {
                let [rest, inverse] = [1, 2].map(|i| saved[SAVED * (group.first + l) + i]);
                let (scale, rest) = (f64::from(inverse), f64::from(rest));
                let moment = moments[l] - rest * totals[l];
                dgamma[l] = (moment * scale) as f32;
                dbeta[l] = totals[l] as f32;
                let slope = -(moment * scale * scale / count);
                terms.factor[l] = gamma[group.first + l] * inverse;
                terms.slope[l] = slope as f32;
                terms.level[l] = (totals[l] / count + rest * slope) as f32;
            }
            if !wants_dx {
                return;
            }
            for image in group.images() {
                // SAFETY: this task alone has this group.
                let dx = unsafe { dx.range(image.start, image.len()) };
                differentiate(cpu.isa, &terms, &x[image.clone()], &dy[image], dx);
            }
        });
}

/// `factor * fma(x - mean, slope, dy - level)`; zero for padding.
#[derive(Clone, Copy, Default)]
struct Terms {
    mean: Channels,
    factor: Channels,
    slope: Channels,
    level: Channels,
}

multiversion! {
    /// `dx = factor * fma(x - mean, slope, dy - level)`.
    fn differentiate(terms: &Terms, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let x = x.as_chunks::<LANES>().0.iter().zip(dy.as_chunks::<LANES>().0);
        for ((x, dy), dx) in x.zip(dx.as_chunks_mut::<LANES>().0) {
            for l in 0..LANES {
                dx[l] = terms.factor[l] * (x[l] - terms.mean[l]).mul_add(terms.slope[l], dy[l] - terms.level[l]);
            }
        }
    }
}
