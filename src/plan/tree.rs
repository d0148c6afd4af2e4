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

    /// Numbers of replicas that can own a subtree each: the powers of two that divide the number of leaves.
    pub fn shares(self) -> impl Iterator<Item = usize> {
        (0..=self.leaves.trailing_zeros()).map(|halvings| 1 << halvings)
    }

    /// The subtree of each of `replicas` replicas: replica r owns the leaves from `r * leaves()` of it on. `Tree::new(replicas)`
    /// is what is left to add. `None` unless it is one of [`Tree::shares`].
    pub fn subtree(self, replicas: usize) -> Option<Self> {
        let owns_a_subtree = replicas.is_power_of_two() && self.leaves.is_multiple_of(replicas);
        owns_a_subtree.then(|| Self::new(self.leaves / replicas))
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

    /// The definition, as a formula over what `name` calls the leaves from `first` on.
    fn formula(first: usize, leaves: usize, name: &dyn Fn(usize) -> String) -> String {
        if leaves == 1 {
            return name(first);
        }
        if leaves.is_multiple_of(2) {
            let half = leaves / 2;
            let [left, right] = [first, first + half].map(|first| formula(first, half, name));
            return format!("({left}+{right})");
        }
        (first..first + leaves)
            .map(name)
            .reduce(|sum, leaf| format!("({sum}+{leaf})"))
            .unwrap()
    }

    fn expected(leaves: usize) -> String {
        formula(0, leaves, &|leaf| leaf.to_string())
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
            assert_eq!(slots[0], expected(leaves), "{leaves} leaves");
        }
    }

    #[test]
    fn subtrees_and_the_tree_above_them_are_the_tree() {
        for leaves in 1..=96 {
            let tree = Tree::new(leaves);
            for replicas in tree.shares() {
                let each = tree.subtree(replicas).expect("a share").leaves();
                let sum = |replica| formula(replica * each, each, &|leaf| leaf.to_string());
                assert_eq!(formula(0, replicas, &sum), expected(leaves));
            }
            assert!([0, 3, 5].iter().all(|replicas| tree.subtree(*replicas).is_none()));
        }
        assert_eq!(Tree::new(12).shares().collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(Tree::new(12).subtree(8), None);
    }

    #[test]
    fn slots_grow_with_the_logarithm() {
        let slots: Vec<_> = [1, 2, 3, 4, 8, 12, 64].map(|n| Tree::new(n).slots()).into();
        assert_eq!(slots, [1, 2, 2, 3, 4, 4, 7]);
    }
}
