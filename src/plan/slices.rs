//! How replicas on several devices divide the work of adding and updating (DESIGN section 3): every replica owns a slice
//! of every bucket, receives it from all others, adds it in the order of the tree, updates it and sends it back.

use std::ops::Range;

/// Elements that are exchanged at a time: what is received waits in memory of this size.
const PIECE: usize = 1 << 23;

/// Slices start on a multiple of this many elements, from where their piece starts: 16 bytes.
const ALIGNMENT: usize = 4;

/// Replicas that exchange slices with one another, and which of them this one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Their ranks in the run, in ascending order: those of a subtree of the reduction tree, or of one node of each.
    pub peers: Vec<usize>,
    /// This one's place among them.
    pub own: usize,
}

impl Level {
    /// What the `peer`-th of them owns of `elements`; may be empty.
    pub fn slice(&self, elements: &Range<usize>, peer: usize) -> Range<usize> {
        let each = elements
            .len()
            .div_ceil(self.peers.len())
            .next_multiple_of(ALIGNMENT);
        let at = |peer: usize| elements.end.min(elements.start + peer * each);
        at(peer)..at(peer + 1)
    }

    /// What this one owns of `elements`.
    pub fn own_slice(&self, elements: &Range<usize>) -> Range<usize> {
        self.slice(elements, self.own)
    }

    /// Elements that this one receives from the others to add up what it owns of `elements`.
    pub fn received(&self, elements: &Range<usize>) -> usize {
        self.own_slice(elements).len() * (self.peers.len() - 1)
    }
}

/// In how many steps slices travel: among all replicas at once, or inside the nodes first and then between them, where
/// each replica exchanges only its own slice with its likes of other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels(Vec<Level>);

impl Levels {
    /// For replica `rank` of `nodes` nodes with `local` replicas each; ranks go node by node.
    pub fn new(rank: usize, nodes: usize, local: usize) -> Self {
        let (node, within) = (rank / local, rank % local);
        let inside = Level {
            peers: (0..local).map(|other| node * local + other).collect(),
            own: within,
        };
        let between = Level {
            peers: (0..nodes).map(|other| other * local + within).collect(),
            own: node,
        };
        let levels = [inside, between];
        Self(levels.into_iter().filter(|level| level.peers.len() > 1).collect())
    }

    /// Every level, innermost first, with the elements that are divided there, for the piece `elements`.
    pub fn descend(&self, elements: Range<usize>) -> Vec<(&Level, Range<usize>)> {
        let mut elements = elements;
        let mut found = Vec::with_capacity(self.0.len());
        for level in &self.0 {
            found.push((level, elements.clone()));
            elements = level.own_slice(&elements);
        }
        found
    }

    /// What the replica owns of the piece `elements` in the end.
    pub fn owned(&self, elements: Range<usize>) -> Range<usize> {
        let own = |elements: Range<usize>, level: &Level| level.own_slice(&elements);
        self.0.iter().fold(elements, own)
    }

    /// Elements of the largest memory that a replica receives slices in.
    pub fn received(&self) -> usize {
        let most = |level: &Level| {
            let slice = level.slice(&(0..PIECE), 0).len();
            slice * (level.peers.len() - 1)
        };
        self.0.iter().map(most).max().unwrap_or(0)
    }
}

/// The pieces of a bucket, in which it is exchanged.
pub fn pieces(elements: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = elements.end;
    elements
        .step_by(PIECE)
        .map(move |start| start..end.min(start + PIECE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_one_owner() {
        for (nodes, local) in [(1, 1), (1, 2), (1, 8), (2, 1), (2, 4), (4, 2)] {
            for elements in [0..0, 5..6, 16..80, 7..1001, 3..2 * PIECE + 17] {
                let mut owners: Vec<Range<usize>> = (0..nodes * local)
                    .flat_map(|rank| {
                        let levels = Levels::new(rank, nodes, local);
                        pieces(elements.clone()).map(move |piece| levels.owned(piece))
                    })
                    .filter(|range| !range.is_empty())
                    .collect();
                owners.sort_by_key(|range| range.start);
                let mut next = elements.start;
                for range in owners {
                    assert_eq!(range.start, next, "{nodes} x {local}, {elements:?}");
                    next = range.end;
                }
                assert_eq!(next, elements.end.max(elements.start));
            }
        }
    }

    #[test]
    fn a_slice_travels_inside_the_node_first() {
        let levels = Levels::new(5, 2, 4); // the second of the second node
        let steps = levels.descend(100..164);
        assert_eq!(steps[0].0.peers, [4, 5, 6, 7]);
        assert_eq!(steps[0].1, 100..164);
        assert_eq!(steps[1].0.peers, [1, 5]);
        assert_eq!(steps[1].1, 116..132);
        assert_eq!(levels.owned(100..164), 124..132);
    }
}
