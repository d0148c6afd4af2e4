//! What it costs that replicas add their gradients in a fixed order.

use std::time::Instant;

use super::median;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::parallel::add_in_tree;
use crate::plan::Tree;

/// Seconds that a step's additions of gradients take.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Additions {
    /// In the order of the tree, as they are done.
    pub exact: f64,
    /// Those of each replica one after the other, then the replicas' sums in the order of NCCL's ring.
    pub ring: f64,
    /// One after the other into one sum.
    pub plain: f64,
}

/// Times the additions of `leaves` gradients of `elements` parameters each, of which `replicas` that share memory own as
/// many each: one way and the others in turn, medians of `repeats`.
pub fn additions<B: Backend>(
    backend: &B,
    elements: usize,
    (leaves, replicas): (usize, usize),
    repeats: usize,
) -> Result<Additions> {
    let tree = Tree::new(leaves);
    let mut slots = (0..tree.slots().max(replicas + 1))
        .map(|_| backend.allocate_parameters(elements))
        .collect::<Result<Vec<_>>>()?;
    let mut timed = |add: &dyn Fn(&mut [B::Buffer]) -> Result<()>| {
        let started = Instant::now();
        add(&mut slots)?;
        backend.wait()?;
        Ok::<_, Error>(started.elapsed().as_secs_f64())
    };
    let in_tree = |slots: &mut [B::Buffer]| {
        let merges = (0..leaves).map(|leaf| tree.merge(leaf));
        let mut merges = merges.filter(|merged| merged.start() != merged.end());
        merges.try_for_each(|merged| backend.tree_add(&mut slots[merged], 0..elements))
    };
    let in_ring = |slots: &mut [B::Buffer]| {
        for rank in 0..replicas {
            // The gradient that has just been computed lies behind the sums.
            slots.swap(rank + 1, replicas);
            (1..leaves / replicas)
                .try_for_each(|_| backend.tree_add(&mut slots[rank..=rank + 1], 0..elements))?;
            slots.swap(rank + 1, replicas);
        }
        // Every piece goes round once, from replica to replica, each from another one on.
        for piece in 0..replicas {
            let piece = piece * elements / replicas..(piece + 1) * elements / replicas;
            let mut hops = (1..replicas).rev();
            hops.try_for_each(|to| backend.tree_add(&mut slots[to - 1..=to], piece.clone()))?;
            slots[..replicas].rotate_left(1);
        }
        Ok(())
    };
    let plainly = |slots: &mut [B::Buffer]| {
        (1..leaves).try_for_each(|_| backend.tree_add(&mut slots[..2], 0..elements))
    };
    let [mut exact, mut ring, mut plain] = [const { Vec::new() }; 3];
    for _ in 0..=repeats {
        exact.push(timed(&in_tree)?);
        ring.push(timed(&in_ring)?);
        plain.push(timed(&plainly)?);
    }
    // The first of each touches fresh memory.
    Ok(Additions {
        exact: median(&exact[1..]),
        ring: median(&ring[1..]),
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
