//! Soft-max, cross-entropy and the rank of the true class.
//!
//! Scores x, posteriors p and dx: (N, classes); labels, losses and ranks: (N).

use super::{Real, check_length, read};
use crate::error::Result;

/// Of one sample: `p[k] = exp(x[k]) / sum of exp(x)`, overwritten, and returns `-ln p[label]`; computed with
/// `x - max x`, so that nothing overflows. A NaN score or an infinite maximum makes all of it NaN.
pub(super) fn forward<T: Real>(x: &[T], label: usize, p: &mut [T]) -> f64 {
    let max = x.iter().map(|&x| x.into()).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|&x| libm::exp(x.into() - max)).sum();
    for (p, &x) in p.iter_mut().zip(x) {
        *p = T::round(libm::exp(x.into() - max) / sum);
    }
    libm::log(sum) - (x[label].into() - max)
}

/// How many classes come before the true one. A class comes after it only if its score is lower, or equal with a
/// higher index: NaN never wins.
pub(super) fn rank<T: Real>(x: &[T], label: usize) -> usize {
    let after = |k: usize| k == label || x[k] < x[label] || x[k] == x[label] && k > label;
    (0..x.len()).filter(|&k| !after(k)).count()
}

/// Of one sample: `dx[k] = p[k] - (1 where k = label, else 0)`, the gradient of its loss. Overwrites dx.
pub(super) fn backward<T: Real>(p: &[T], label: usize, dx: &mut [T]) {
    dx.copy_from_slice(p);
    dx[label] = p[label] - T::from(1.0);
}

/// Losses and ranks of what the forward pass of a micro-batch saved.
pub(super) fn outcomes<T: Real>(saved: &[T], losses: &mut [f32], ranks: &mut [u32]) -> Result<()> {
    let (saved_losses, saved_ranks) = saved.split_at(saved.len() / 2);
    read(saved_losses, losses)?;
    check_length("ranks", saved_ranks.len(), ranks.len())?;
    for (rank, &saved) in ranks.iter_mut().zip(saved_ranks) {
        *rank = saved.into() as u32;
    }
    Ok(())
}
