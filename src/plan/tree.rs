//! The order in which the micro-batches' gradients (the leaves) are added: part of the exactness contract.
//!
//! A fixed binary tree on the micro-batch indices: halve while the count is even, then add left to right. With M = q *
//! 2^d, q odd, groups of q leaves are summed left to right and the 2^d group sums pairwise. R replicas, R a power of
//! two, own contiguous subtrees, so the sum never depends on R.
//!
//! Leaves arrive in order, so the partial sums that wait for their right half form a stack. Each leaf is written
//! straight into the next free slot of that stack and then merged with the slots below it in one pass over memory:
//! k + 1 slots are read and one is written.

use std::ops::RangeInclusive;

/// The reduction tree over a number of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    leaves: usize,
    /// The odd factor of `leaves`.
    group: usize,
}

impl Tree {
    /// The tree over `leaves` micro-batches, at least one.
    pub fn new(leaves: usize) -> Self {
        assert!(leaves > 0, "a tree has at least one leaf");
        Self {
            leaves,
            group: leaves >> leaves.trailing_zeros(),
        }
    }

    /// Number of leaves.
    pub fn leaves(self) -> usize {
        self.leaves
    }

    /// Gradient buffers that a sequential walk needs.
    pub fn slots(self) -> usize {
        (0..self.leaves)
            .map(|leaf| self.slot(leaf) + 1)
            .max()
            .unwrap_or(1)
    }

    /// The slot that leaf `leaf` is written to.
    pub fn slot(self, leaf: usize) -> usize {
        let (group, within) = (leaf / self.group, leaf % self.group);
        group.count_ones() as usize + usize::from(within > 0)
    }

    /// The slots to add once leaf `leaf` is written: `s[a] <- s[a] + (s[a+1] + (... + s[b]))`. A single slot where
    /// there is nothing to add. After the last leaf the whole sum is in slot 0.
    pub fn merge(self, leaf: usize) -> RangeInclusive<usize> {
        let (group, within) = (leaf / self.group, leaf % self.group);
        let last = self.slot(leaf);
        let mut merges = usize::from(within > 0);
        if within == self.group - 1 {
            merges += group.trailing_ones() as usize;
        }
        last - merges..=last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, as a formula over leaf names.
    fn expected(leaves: std::ops::Range<usize>) -> String {
        let n = leaves.len();
        if n == 1 {
            return leaves.start.to_string();
        }
        if n.is_multiple_of(2) {
            let middle = leaves.start + n / 2;
            return format!(
                "({}+{})",
                expected(leaves.start..middle),
                expected(middle..leaves.end)
            );
        }
        leaves
            .map(|l| l.to_string())
            .reduce(|sum, leaf| format!("({sum}+{leaf})"))
            .unwrap()
    }

    #[test]
    fn the_walk_builds_the_tree() {
        for leaves in 1..=96 {
            let tree = Tree::new(leaves);
            let mut slots = vec![String::new(); tree.slots()];
            for leaf in 0..leaves {
                slots[tree.slot(leaf)] = leaf.to_string();
                let merged = tree.merge(leaf);
                let sum = slots[merged.clone()]
                    .iter()
                    .cloned()
                    .rev()
                    .reduce(|right, left| format!("({left}+{right})"));
                slots[*merged.start()] = sum.unwrap();
            }
            assert_eq!(slots[0], expected(0..leaves), "{leaves} leaves");
        }
    }

    #[test]
    fn slots_grow_with_the_logarithm() {
        let slots: Vec<_> = [1, 2, 3, 4, 8, 12, 64].map(|n| Tree::new(n).slots()).into();
        assert_eq!(slots, [1, 2, 2, 3, 4, 4, 7]);
    }
}
