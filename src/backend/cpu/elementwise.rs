//! Everything that treats elements one by one, at the speed of the memory: ReLU, tree additions, the update
//! rule, folds.
//!
//! With explicit fused multiply-adds: the same bits on every path and on every back end.

use std::ops::Range;

use super::isa::multiversion;
use super::layout::tensor_bytes;
use super::team::Parts;
use super::{Buffer, Cpu, Views};
use crate::backend::{State, fold_element};
use crate::network::{Parameter, batch_norm::MOMENTUM};
use crate::plan::{DataGradient, Footprint, Step, StepParams, UpdateRule};

/// Elements of one task.
pub(super) const CHUNK: usize = 1 << 14;

pub(super) fn relu_footprint(step: &Step) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        backward_reads_value: true,
        ..Footprint::default()
    }
}

/// `y = x < 0 ? 0 : x`: NaN passes through, so that divergence stays visible.
pub(super) fn relu_forward(cpu: &Cpu, views: &mut Views<'_>) {
    cpu.team.chunks(views.value, CHUNK, |index, y| {
        relu(cpu.isa, &views.input[index * CHUNK..], y);
    });
}

/// `dx = y > 0 ? dy : 0`.
pub(super) fn relu_backward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    if step.data_gradient == DataGradient::None {
        return;
    }
    let (y, dy) = (&*views.value, &*views.gradient);
    cpu.team.chunks(views.input_gradient, CHUNK, |index, dx| {
        let start = index * CHUNK;
        dx.copy_from_slice(&dy[start..start + dx.len()]);
        mask(cpu.isa, &y[start..], dx);
    });
}

/// `dy = y > 0 ? dy : 0` where the step after a ReLU epilogue has not done it.
pub(super) fn mask_in_place(cpu: &Cpu, y: &[f32], dy: &mut [f32]) {
    cpu.team.chunks(dy, CHUNK, |index, dy| {
        mask(cpu.isa, &y[index * CHUNK..], dy);
    });
}

multiversion! {
    fn relu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x < 0.0 { 0.0 } else { x };
        }
    }
}

multiversion! {
    /// `d = y > 0 ? d : 0`.
    pub(super) fn mask(y: &[f32], d: &mut [f32]) {
        for (d, &y) in d.iter_mut().zip(y) {
            *d = if y > 0.0 { *d } else { 0.0 };
        }
    }
}

/// `sums[0] <- sums[0] + (sums[1] + (... + leaf))` over `elements`: each is read once, the first written.
pub(super) fn tree_add(cpu: &Cpu, sums: &mut [Buffer], leaf: &Buffer, elements: Range<usize>) {
    let Some((first, middle)) = sums.split_first_mut() else {
        return;
    };
    /// Elements whose partial sum waits in the L1 cache.
    const BLOCK: usize = 1 << 10;
    let start = elements.start;
    let first = &mut first.as_mut_slice()[elements];
    cpu.team.chunks(first, CHUNK, |index, first| {
        for (block, first) in first.chunks_mut(BLOCK).enumerate() {
            let start = start + index * CHUNK + block * BLOCK;
            let of = |slot: &Buffer, sum: &mut [f32]| {
                add(cpu.isa, &slot.as_slice()[start..start + sum.len()], sum);
            };
            if middle.is_empty() {
                of(leaf, first);
                continue;
            }
            let mut sum = [0.0; BLOCK];
            let sum = &mut sum[..first.len()];
            sum.copy_from_slice(&leaf.as_slice()[start..start + first.len()]);
            for slot in middle.iter().rev() {
                of(slot, sum);
            }
            add(cpu.isa, sum, first);
        }
    });
}

multiversion! {
    /// `sum += x`; addition of two numbers commutes to the bit.
    fn add(x: &[f32], sum: &mut [f32]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

/// The update rule over one array: see [`UpdateRule`] for the formula.
pub(super) fn update(
    cpu: &Cpu,
    parameter: &Parameter,
    rule: &UpdateRule,
    params: &StepParams,
    state: State<'_, Buffer>,
) {
    let gradient = &state.gradient.as_slice()[parameter.range()];
    let weights = &mut state.weights.as_mut_slice()[parameter.range()];
    if !parameter.role.is_learned() {
        let micro_batches = rule.micro_batches as f32;
        return cpu.team.chunks(weights, CHUNK, |index, weights| {
            average(cpu.isa, micro_batches, &gradient[index * CHUNK..], weights);
        });
    }
    let (rate, decay) = rule.rates(parameter, params.learning_rate);
    let factors = Factors {
        rate,
        decay,
        momentum: rule.momentum,
        batch: rule.batch as f32,
    };
    let momentum = &mut state.momentum.as_mut_slice()[parameter.range()];
    cpu.team
        .chunks2((weights, CHUNK), (momentum, CHUNK), |index, weights, momentum| {
            descend(cpu.isa, factors, &gradient[index * CHUNK..], weights, momentum);
        });
}

#[derive(Clone, Copy)]
struct Factors {
    rate: f32,
    decay: f32,
    momentum: f32,
    batch: f32,
}

multiversion! {
    /// `t = fma(decay, w, g / B); v = fma(momentum, v, -(lr * t)); w = w + v`.
    fn descend(factors: Factors, gradient: &[f32], weights: &mut [f32], momentum: &mut [f32]) {
        for ((w, v), &g) in weights.iter_mut().zip(momentum).zip(gradient) {
            let t = factors.decay.mul_add(*w, g / factors.batch);
            *v = factors.momentum.mul_add(*v, -(factors.rate * t));
            *w += *v;
        }
    }
}

multiversion! {
    /// `r = fma(m, g / M - r, r)` for running statistics.
    fn average(micro_batches: f32, sums: &[f32], running: &mut [f32]) {
        for (r, &g) in running.iter_mut().zip(sums) {
            *r = MOMENTUM.mul_add(g / micro_batches - *r, *r);
        }
    }
}

/// Whether every element is finite.
pub(super) fn is_finite(cpu: &Cpu, values: &[f32]) -> bool {
    let finite = std::sync::atomic::AtomicBool::new(true);
    cpu.team.run(values.len().div_ceil(CHUNK), |index, _| {
        let values = &values[index * CHUNK..];
        if !all_finite(cpu.isa, &values[..CHUNK.min(values.len())]) {
            finite.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

multiversion! {
    fn all_finite(values: &[f32]) -> bool {
        let mut bad = 0u32;
        for &value in values {
            bad |= u32::from(!value.is_finite());
        }
        bad == 0
    }
}

/// The fold of `values` by index: a wrapping sum, so that the order of the tasks does not matter.
pub(super) fn fold(cpu: &Cpu, values: &[f32]) -> u64 {
    let sum = std::sync::atomic::AtomicU64::new(0);
    cpu.team.run(values.len().div_ceil(CHUNK), |index, _| {
        let start = index * CHUNK;
        let end = values.len().min(start + CHUNK);
        sum.fetch_add(
            fold_part(cpu.isa, start, &values[start..end]),
            std::sync::atomic::Ordering::Relaxed,
        );
    });
    sum.into_inner()
}

multiversion! {
    fn fold_part(start: usize, values: &[f32]) -> u64 {
        let mut sum = 0u64;
        for (i, &value) in values.iter().enumerate() {
            sum = sum.wrapping_add(fold_element(start + i, value));
        }
        sum
    }
}

/// Copies `values` to `out` in parallel.
pub(super) fn copy(cpu: &Cpu, values: &[f32], out: &mut [f32]) {
    let out = Parts::new(out);
    cpu.team.run(values.len().div_ceil(CHUNK), |index, _| {
        let start = index * CHUNK;
        let values = &values[start..values.len().min(start + CHUNK)];
        // SAFETY: chunks do not overlap.
        unsafe { out.range(start, values.len()) }.copy_from_slice(values);
    });
}
