//! Soft-max, cross-entropy and the rank of the true class.
//!
//! Scores x and dx: (N, C/16, H, W, 16), flattened as (C, H, W); posteriors y: (N, classes), rows padded to a multiple
//! of 16; labels: (N). Saved: N losses (f32), then N ranks (u32).
//! Exponentials and logarithms are those of the crate `libm`, in f64: the same bits on every host.

use super::layout::{image_from_logical, image_len, image_to_logical, padded, tensor_bytes};
use super::memory::f32_bytes;
use super::team::Parts;
use super::{Cpu, Views};
use crate::error::{Error, Result};
use crate::plan::{DataGradient, Footprint, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        saved: f32_bytes(2 * step.batch),
        forward_scratch: f32_bytes(3 * step.batch * step.input.len()),
        backward_scratch: f32_bytes(step.batch * step.input.len()),
        backward_reads_value: true,
        ..Footprint::default()
    }
}

/// `y[k] = exp(x[k] - max x) / sum of exp(x - max x)`, the loss `ln sum - (x[label] - max x)`, and the rank.
/// Overwrites all of them; a label that names no class is an error, before anything is written.
pub(super) fn forward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) -> Result<()> {
    let classes = step.output.len();
    let labels = &views.batch.labels[..step.batch];
    if let Some((n, label)) = (0..).zip(labels).find(|(_, label)| **label as usize >= classes) {
        return Err(Error::invalid_hint(
            format_args!("label of sample {n} of the micro-batch"),
            format_args!("a class below {classes}"),
            label,
            "the network has fewer classes than the data set; see --classes",
        ));
    }
    let (losses, ranks) = views.saved[..2 * step.batch].split_at_mut(step.batch);
    let ranks: &mut [u32] = bytemuck::cast_slice_mut(ranks);
    // Exponentials in f64, and scores.
    let (exponentials, scores) = views.scratch.split_at_mut(2 * step.batch * classes);
    let exponentials: &mut [f64] = bytemuck::cast_slice_mut(exponentials);
    let (exponentials, scores) = (Parts::new(exponentials), Parts::new(scores));
    let (ranks, images) = (Parts::new(ranks), views.input);
    cpu.team.chunks2(
        (views.value, padded(classes)),
        (losses, 1),
        |n, posteriors, loss| {
            // SAFETY: this task alone has this sample.
            let (exponentials, x, rank) = unsafe {
                let start = n * classes;
                (
                    exponentials.range(start, classes),
                    scores.range(start, classes),
                    ranks.range(n, 1),
                )
            };
            let image = &images[n * image_len(step.input)..][..image_len(step.input)];
            image_to_logical(cpu.isa, step.input, image, x);
            let label = labels[n] as usize;
            rank[0] = rank_of(x, label);
            posteriors[classes..].fill(0.0);
            loss[0] = soft_max(x, label, exponentials, &mut posteriors[..classes]) as f32;
        },
    );
    Ok(())
}

/// Losses and ranks of what a forward pass saved.
pub(super) fn outcomes(saved: &[f32], losses: &mut [f32], ranks: &mut [u32]) {
    let (saved_losses, saved_ranks) = saved.split_at(losses.len());
    losses.copy_from_slice(saved_losses);
    ranks.copy_from_slice(bytemuck::cast_slice(&saved_ranks[..ranks.len()]));
}

/// A NaN score or an infinite maximum makes everything NaN.
fn soft_max(x: &[f32], label: usize, exponentials: &mut [f64], posteriors: &mut [f32]) -> f64 {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    for (exponential, &x) in exponentials.iter_mut().zip(x) {
        *exponential = libm::exp(f64::from(x) - max);
    }
    let sum: f64 = exponentials.iter().sum();
    for (posterior, exponential) in posteriors.iter_mut().zip(exponentials) {
        *posterior = (*exponential / sum) as f32;
    }
    libm::log(sum) - (f64::from(x[label]) - max)
}

/// How many classes come before the true one: all but those with a lower score, or an equal one and a higher
/// index.
fn rank_of(x: &[f32], label: usize) -> u32 {
    let after = |k: usize| k == label || x[k] < x[label] || x[k] == x[label] && k > label;
    (0..x.len()).filter(|&k| !after(k)).count() as u32
}

/// `dx[k] = y[k] - (1 where k = label, else 0)`. Overwrites dx.
pub(super) fn backward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    if step.data_gradient == DataGradient::None {
        return;
    }
    let classes = step.output.len();
    let (posteriors, labels) = (&*views.value, views.batch.labels);
    let dx = (&mut *views.input_gradient, image_len(step.input));
    cpu.team
        .chunks2(dx, (&mut *views.scratch, classes), |n, dx, logical| {
            logical.copy_from_slice(&posteriors[n * padded(classes)..][..classes]);
            logical[labels[n] as usize] -= 1.0;
            image_from_logical(cpu.isa, step.input, logical, dx);
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_ties_and_nan() {
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 2), 1);
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 1), 0);
        assert_eq!(rank_of(&[1.0, f32::NAN, 3.0], 1), 2);
        assert_eq!(rank_of(&[1.0, f32::NAN, 3.0], 2), 1);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let (mut exponentials, mut posteriors) = ([0.0; 3], [0.0; 3]);
        let loss = soft_max(&[1e38, 0.0, -1e38], 0, &mut exponentials, &mut posteriors);
        assert_eq!((loss, posteriors), (0.0, [1.0, 0.0, 0.0]));
        assert!(soft_max(&[f32::NAN, 0.0, 1.0], 1, &mut exponentials, &mut posteriors).is_nan());
    }
}
