//! What it costs that replicas add their gradients in a fixed order.

use std::time::Instant;

use super::median;
use crate::backend::Backend;
use crate::error::Result;
use crate::parallel::add_in_tree;
use crate::plan::Tree;

/// Seconds that a step's additions of gradients take.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Additions {
    /// In the order of the tree, as they are done.
    pub exact: f64,
    /// One after the other into one sum.
    pub plain: f64,
}

/// Times the additions of `leaves` gradients of `elements` parameters each, one way and the other in turn; medians of
/// `repeats`.
pub fn additions<B: Backend>(
    backend: &B,
    elements: usize,
    leaves: usize,
    repeats: usize,
) -> Result<Additions> {
    let tree = Tree::new(leaves);
    let mut slots = (0..tree.slots().max(2))
        .map(|_| backend.allocate_parameters(elements))
        .collect::<Result<Vec<_>>>()?;
    let mut timed = |merges: &dyn Fn(usize) -> std::ops::RangeInclusive<usize>| {
        let started = Instant::now();
        for leaf in 0..leaves {
            let merged = merges(leaf);
            if merged.start() != merged.end() {
                backend.tree_add(&mut slots[merged], 0..elements)?;
            }
        }
        backend.wait()?;
        Ok(started.elapsed().as_secs_f64())
    };
    let (mut exact, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..=repeats {
        exact.push(timed(&|leaf| tree.merge(leaf))?);
        plain.push(timed(&|leaf| 0..=usize::from(leaf > 0))?);
    }
    // The first of each touches fresh memory.
    Ok(Additions {
        exact: median(&exact[1..]),
        plain: median(&plain[1..]),
    })
}

/// Times the sum of the gradients of `replicas` that share memory, `elements` each, and counts the elements of it that are
/// not to the bit what the tree gives, computed one by one. Median of `repeats`.
pub fn reduction<B: Backend>(
    backend: &B,
    replicas: usize,
    elements: usize,
    repeats: usize,
) -> Result<(f64, usize)> {
    let values: Vec<Vec<f32>> = (0..replicas).map(|rank| gradient(rank, elements)).collect();
    let mut sums = (0..replicas)
        .map(|_| backend.allocate_parameters(elements))
        .collect::<Result<Vec<_>>>()?;
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats.max(1) {
        for (sum, values) in sums.iter_mut().zip(&values) {
            backend.write_parameters(sum, 0, values)?;
        }
        let started = Instant::now();
        add_in_tree(backend, &mut sums, elements)?;
        backend.wait()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let mut found = vec![0.0; elements];
    backend.read_parameters(&sums[0], 0, &mut found)?;
    let wrong = (0..elements).filter(|&i| found[i].to_bits() != expected(&values, i).to_bits());
    Ok((median(&seconds), wrong.count()))
}

/// A gradient whose sum depends on the order of additions.
fn gradient(rank: usize, elements: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(rank as u64 + 1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 40) as f32 / f32::from(1u16 << 12) - 2048.0) / 7.0
    };
    (0..elements).map(|_| next()).collect()
}

/// Element `index` of the sum over a power of two of gradients: halves, then their sum.
fn expected(values: &[Vec<f32>], index: usize) -> f32 {
    match values {
        [one] => one[index],
        several => {
            let (left, right) = several.split_at(several.len() / 2);
            expected(left, index) + expected(right, index)
        }
    }
}
