//! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).
//!
//! x, dx, y, dy and d: (N, C, H, W). `y[c] = x[c] * d[c]^-beta` with `d[c] = k + alpha * sum of x[j]^2` over
//! the window `c - 2 ..= c + 2`, cut at the ends. Saved for the backward pass: d.

use super::isa::multiversion;
use super::memory::f32_bytes;
use super::team::Parts;
use super::{Cpu, Views};
use crate::network::lrn::{ALPHA, BETA, K, N};
use crate::plan::{DataGradient, Footprint, Step};

/// Pixels of one task: their sums wait in the L1 cache while the window moves over the channels.
const PIXELS: usize = 256;

pub(super) fn footprint(step: &Step) -> Footprint {
    let bytes = f32_bytes(step.batch * step.output.len());
    Footprint {
        value: bytes,
        gradient: bytes,
        saved: bytes,
        backward_reads_input: true,
        ..Footprint::default()
    }
}

/// One task's pixels: image, first pixel, number.
fn pixels(step: &Step, task: usize) -> (usize, usize, usize) {
    let plane = step.output.plane();
    let parts = plane.div_ceil(PIXELS);
    let first = task % parts * PIXELS;
    (task / parts, first, PIXELS.min(plane - first))
}

fn tasks(step: &Step) -> usize {
    step.batch * step.output.plane().div_ceil(PIXELS)
}

fn window(c: usize, channels: usize) -> std::ops::Range<usize> {
    c.saturating_sub(N / 2)..(c + N / 2 + 1).min(channels)
}

/// Overwrites y and d.
pub(super) fn forward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let (channels, plane) = (step.output.c, step.output.plane());
    let (y, saved, x) = (Parts::new(views.value), Parts::new(views.saved), views.input);
    cpu.team.run(tasks(step), |task, _| {
        let (n, first, count) = pixels(step, task);
        let place = |c: usize| (n * channels + c) * plane + first;
        for c in 0..channels {
            // SAFETY: this task alone writes these pixels.
            let (y, d) = unsafe { (y.range(place(c), count), saved.range(place(c), count)) };
            d.fill(0.0);
            for j in window(c, channels) {
                add_square(cpu.isa, &x[place(j)..], d);
            }
            normalise(cpu.isa, &x[place(c)..], d, y);
        }
    });
}

multiversion! {
    /// `sum = fma(x, x, sum)`.
    fn add_square(x: &[f32], sum: &mut [f32]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum = x.mul_add(x, *sum);
        }
    }
}

multiversion! {
    /// `d = fma(alpha, d, k)` of the sum of squares d; `y = x * d^-0.75`.
    fn normalise(x: &[f32], d: &mut [f32], y: &mut [f32]) {
        for ((y, d), &x) in y.iter_mut().zip(d).zip(x) {
            *d = ALPHA.mul_add(*d, K);
            *y = x * power_minus_beta(*d);
        }
    }
}

/// `d^-0.75` by square roots: correctly rounded on every host.
#[inline(always)]
fn power_minus_beta(d: f32) -> f32 {
    let root = d.sqrt();
    1.0 / (root * root.sqrt())
}

/// `dx[c] = dy[c] * d[c]^-beta - 2 * alpha * beta * x[c] * sum of dy[j] * x[j] * d[j]^(-beta - 1)` over the
/// window, zero where a mask is asked for and x is not positive. Overwrites dx.
pub(super) fn backward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let masked = match step.data_gradient {
        DataGradient::None => return,
        DataGradient::Plain => false,
        DataGradient::Masked => true,
    };
    let (channels, plane) = (step.output.c, step.output.plane());
    let (x, d, dy) = (views.input, &*views.saved, &*views.gradient);
    let dx = Parts::new(views.input_gradient);
    cpu.team.run(tasks(step), |task, _| {
        let (n, first, count) = pixels(step, task);
        let place = |c: usize| (n * channels + c) * plane + first;
        // The window's terms, each made once, in a ring of N rows.
        let mut terms = [[0.0f32; PIXELS]; N];
        let mut made = 0;
        for c in 0..channels {
            let window = window(c, channels);
            while made < window.end {
                let at = place(made)..place(made) + count;
                term(
                    cpu.isa,
                    &x[at.clone()],
                    &d[at.clone()],
                    &dy[at],
                    &mut terms[made % N],
                );
                made += 1;
            }
            let mut sum = [0.0; PIXELS];
            for j in window {
                add(cpu.isa, &terms[j % N], &mut sum);
            }
            // SAFETY: this task alone writes these pixels.
            let dx = unsafe { dx.range(place(c), count) };
            let at = place(c)..place(c) + count;
            differentiate(
                cpu.isa,
                masked,
                (&x[at.clone()], &d[at.clone()], &dy[at]),
                &sum,
                dx,
            );
        }
    });
}

multiversion! {
    /// `dy * x * d^(-beta - 1)`.
    fn term(x: &[f32], d: &[f32], dy: &[f32], out: &mut [f32; PIXELS]) {
        for (((out, &x), &d), &dy) in out.iter_mut().zip(x).zip(d).zip(dy) {
            *out = dy * x * (power_minus_beta(d) / d);
        }
    }
}

multiversion! {
    fn add(term: &[f32; PIXELS], sum: &mut [f32; PIXELS]) {
        for (sum, &term) in sum.iter_mut().zip(term) {
            *sum += term;
        }
    }
}

multiversion! {
    /// `dx = fma(-2 alpha beta * x, sum, dy * d^-beta)`.
    fn differentiate(masked: bool, at: (&[f32], &[f32], &[f32]), sum: &[f32; PIXELS], dx: &mut [f32]) {
        let (x, d, dy) = at;
        for ((((dx, &x), &d), &dy), &sum) in dx.iter_mut().zip(x).zip(d).zip(dy).zip(sum) {
            let gradient = (-2.0 * ALPHA * BETA * x).mul_add(sum, dy * power_minus_beta(d));
            let passes = !masked || x > 0.0;
            *dx = if passes { gradient } else { 0.0 };
        }
    }
}
