//! Silent corruption: hardware that changes what it keeps, or computes wrongly, and says nothing.
//!
//! Every replica gives the same bits for the same work, so whatever differs is an error. Weights and momentum are folded
//! after each update and again before the next one: nobody writes them in between. Folds of weights are compared between
//! replicas, too, which an exchange can have damaged. Every so many steps each replica computes a micro-batch of its
//! neighbour's, and the folds of both gradients are compared, bucket by bucket; a replica that is alone computes one of
//! its own twice.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Corruption, Suspect};
use crate::exec::StateFolds;

/// What a replica has seen of itself and of its neighbour, the next replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Findings {
    /// Its host's name.
    pub(super) host: String,
    /// Of the weights and the momentum, where it has any of its own.
    pub(super) state: Option<Kept>,
    /// The leaf of one of its micro-batches.
    pub(super) computed: Option<Leaf>,
    /// One of its neighbour's, computed again.
    pub(super) recomputed: Option<Leaf>,
    /// How long it took to find all this.
    pub(super) seconds: f64,
}

/// What a replica keeps from one step to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// When it was last written.
    pub(super) written: StateFolds,
    /// Now.
    pub(super) found: StateFolds,
}

impl Kept {
    fn weights_changed(&self) -> bool {
        (self.written.weights, self.written.copy) != (self.found.weights, self.found.copy)
    }

    fn momentum_changed(&self) -> bool {
        self.written.momentum != self.found.momentum
    }

    /// What all replicas have alike: what they compute with.
    fn shared(&self) -> u64 {
        self.found.copy.unwrap_or(self.found.weights)
    }
}

/// Folds of the gradient of one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaf {
    /// Within the step.
    pub(super) micro_batch: usize,
    /// In the order of the plan's buckets.
    pub(super) folds: Vec<u64>,
}

/// Replicas, by rank.
type Ranks = BTreeSet<usize>;

/// What is wrong after `step` finished steps, and whose fault it can be. `all` is what every replica found, by rank;
/// `layers` names the buckets.
pub(super) fn verdict(step: u64, all: &[&Findings], layers: &[&str]) -> Option<Corruption> {
    let (what, ranks) = changed(all)
        .or_else(|| differing_weights(all))
        .or_else(|| differing_leaves(all, layers))?;
    let suspect = |rank: usize| Suspect {
        rank,
        host: all[rank].host.clone(),
    };
    Some(Corruption {
        step,
        what,
        suspects: ranks.into_iter().map(suspect).collect(),
    })
}

/// Replicas whose weights, or else whose momentum, changed while nobody wrote them.
fn changed(all: &[&Findings]) -> Option<(String, Ranks)> {
    let of = |what, is_changed: fn(&Kept) -> bool| {
        let ranks: Ranks = (0..all.len())
            .filter(|&rank| all[rank].state.as_ref().is_some_and(is_changed))
            .collect();
        (!ranks.is_empty()).then(|| (format!("{what} changed while nobody wrote them"), ranks))
    };
    of("weights", Kept::weights_changed).or_else(|| of("momentum", Kept::momentum_changed))
}

/// Replicas that have other weights than most: the odd one of three or more, both of two.
fn differing_weights(all: &[&Findings]) -> Option<(String, Ranks)> {
    let mut holders = BTreeMap::<u64, Ranks>::new();
    for (rank, findings) in all.iter().enumerate() {
        if let Some(state) = findings.state {
            holders.entry(state.shared()).or_default().insert(rank);
        }
    }
    let replicas: usize = holders.values().map(Ranks::len).sum();
    let minority = |ranks: &Ranks| 2 * ranks.len() <= replicas;
    let ranks: Ranks = holders.into_values().filter(minority).flatten().collect();
    (!ranks.is_empty()).then(|| ("weights that should be the same differ".into(), ranks))
}

/// Replicas that a wrong gradient can come from: those that took part in every comparison that failed.
fn differing_leaves(all: &[&Findings], layers: &[&str]) -> Option<(String, Ranks)> {
    let mut failed = all.iter().enumerate().filter_map(|(rank, findings)| {
        let owner = (rank + 1) % all.len();
        let [computed, recomputed] = [all[owner].computed.as_ref()?, findings.recomputed.as_ref()?];
        (computed != recomputed).then(|| (computed, recomputed, Ranks::from([rank, owner])))
    });
    let (computed, recomputed, mut ranks) = failed.next()?;
    for (_, _, pair) in failed {
        let common: Ranks = ranks.intersection(&pair).copied().collect();
        ranks = if common.is_empty() { &ranks | &pair } else { common };
    }
    let mut folds = computed.folds.iter().zip(&recomputed.folds);
    let bucket = folds.position(|(one, other)| one != other)?;
    let what = format!(
        "two computations of micro-batch {} differ, first in the gradient of {}",
        computed.micro_batch, layers[bucket]
    );
    Some((what, ranks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(weights: u64, momentum: u64) -> Kept {
        let folds = StateFolds {
            weights,
            copy: None,
            momentum,
        };
        Kept {
            written: folds,
            found: folds,
        }
    }

    /// Replicas that have computed the same, and kept what they had.
    fn sound(replicas: usize) -> Vec<Findings> {
        let leaf = |micro_batch: usize| {
            Some(Leaf {
                micro_batch,
                folds: vec![10 * micro_batch as u64, 10 * micro_batch as u64 + 1],
            })
        };
        let findings = |rank| Findings {
            host: format!("node{rank}"),
            state: Some(kept(1, rank as u64)),
            computed: leaf(rank),
            recomputed: leaf((rank + 1) % replicas),
            seconds: 0.0,
        };
        (0..replicas).map(findings).collect()
    }

    fn refs(all: &[Findings]) -> Vec<&Findings> {
        all.iter().collect()
    }

    fn suspects(all: &[Findings]) -> (Vec<usize>, String) {
        let found = verdict(7, &refs(all), &["fc8", "conv1_1"]).expect("something is wrong");
        assert!(
            found
                .suspects
                .iter()
                .all(|at| at.host == format!("node{}", at.rank))
        );
        (found.suspects.iter().map(|at| at.rank).collect(), found.what)
    }

    #[test]
    fn nothing_is_wrong_with_what_is_the_same() {
        for replicas in [1, 2, 4] {
            assert_eq!(verdict(7, &refs(&sound(replicas)), &["fc8", "conv1_1"]), None);
        }
    }

    #[test]
    fn a_change_of_what_a_replica_keeps_names_it() {
        let written = sound(2)[1].state.unwrap().written;
        let (weights, copy, momentum) = (written.weights ^ 1, Some(3), written.momentum ^ 1);
        let changes = [
            (StateFolds { weights, ..written }, "weights"),
            (StateFolds { copy, ..written }, "weights"),
            (StateFolds { momentum, ..written }, "momentum"),
        ];
        for (found, what) in changes {
            let mut all = sound(2);
            all[1].state.as_mut().unwrap().found = found;
            let expected = format!("{what} changed while nobody wrote them");
            assert_eq!(suspects(&all), (vec![1], expected));
        }
    }

    #[test]
    fn the_odd_one_of_several_is_named_and_both_of_two() {
        for (replicas, odd, expected) in [(2, 1, vec![0, 1]), (4, 2, vec![2])] {
            let mut all = sound(replicas);
            all[odd].state = Some(kept(5, odd as u64));
            assert_eq!(suspects(&all).0, expected);
        }
    }

    /// With a copy, replicas have their own weights but for what they compute with.
    #[test]
    fn what_replicas_compute_with_is_compared() {
        let mut all = sound(4);
        for (rank, findings) in all.iter_mut().enumerate() {
            let mut state = kept(rank as u64, 0);
            (state.written.copy, state.found.copy) = (Some(9), Some(9));
            findings.state = Some(state);
        }
        assert_eq!(verdict(7, &refs(&all), &["fc8", "conv1_1"]), None);
        let odd = all[3].state.as_mut().unwrap();
        (odd.written.copy, odd.found.copy) = (Some(8), Some(8));
        assert_eq!(suspects(&all).0, [3]);
    }

    #[test]
    fn a_wrong_leaf_names_its_layer_and_both_who_computed_it() {
        let mut all = sound(4);
        all[2].computed.as_mut().unwrap().folds[1] ^= 1;
        let (ranks, what) = suspects(&all);
        assert_eq!(ranks, [1, 2]);
        assert!(
            what.contains("micro-batch 2") && what.contains("conv1_1"),
            "{what}"
        );
        // If that one is also wrong as a checker, it is the one.
        all[2].recomputed.as_mut().unwrap().folds[0] ^= 1;
        assert_eq!(suspects(&all).0, [2]);
    }

    #[test]
    fn a_replica_alone_is_its_own_neighbour() {
        let mut all = sound(1);
        all[0].recomputed.as_mut().unwrap().folds[0] ^= 1;
        assert_eq!(suspects(&all).0, [0]);
    }
}
