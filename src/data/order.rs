//! Which sample stands at which position of the endless training stream.
//!
//! Position p belongs to epoch `p / samples`. Within an epoch the samples stand in the order of a Fisher-Yates
//! shuffle of `0..samples` whose draws come from `Stream(seed, epoch, Order, layer 0)`: for i from `samples - 1` down
//! to 1, element i is exchanged with element `below(i + 1)`. Nothing is remembered from epoch to epoch, so any
//! position can be visited at any time: resuming is a seek.

use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use std::sync::{Arc, Mutex, PoisonError};

/// The order of one run.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    samples: usize,
    /// The last two epochs that were asked for: around a border, slots of both are being filled.
    cache: Mutex<[Option<Arc<Epoch>>; 2]>,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    permutation: Vec<u32>,
}

impl Order {
    /// The order of `samples` samples under `seed`.
    pub fn new(seed: u64, samples: usize) -> Result<Self> {
        if samples == 0 || u32::try_from(samples).is_err() {
            return Err(Error::invalid_hint(
                "the training split",
                format!("1 to {} samples", u32::MAX),
                samples,
                "`verydeep inspect` shows what the shards hold",
            ));
        }
        Ok(Self {
            seed,
            samples,
            cache: Mutex::default(),
        })
    }

    /// Samples of one epoch.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Index of the sample at a position. The first call of an epoch shuffles it; the others look it up.
    pub fn sample(&self, position: u64) -> usize {
        let samples = self.samples as u64;
        let epoch = self.epoch(position / samples);
        epoch.permutation[(position % samples) as usize] as usize
    }

    /// Index of the sample that is tried, as number `attempt` (from 0), when the one at `position` cannot be read.
    pub fn replacement(&self, position: u64, attempt: u16) -> usize {
        Stream::new(self.seed, position, Purpose::Replace, attempt).below(self.samples as u64) as usize
    }

    /// Bytes that the order holds once it has crossed the border between two epochs.
    pub fn memory_bytes(&self) -> u64 {
        2 * size_of::<u32>() as u64 * self.samples as u64
    }

    fn epoch(&self, number: u64) -> Arc<Epoch> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = cache.iter().flatten().find(|epoch| epoch.number == number) {
            return Arc::clone(epoch);
        }
        let epoch = Arc::new(Epoch {
            number,
            permutation: permutation(self.seed, number, self.samples),
        });
        // Neighbours differ in parity: a new epoch takes the place of the one before the last.
        cache[(number % 2) as usize] = Some(Arc::clone(&epoch));
        epoch
    }
}

/// The samples of one epoch in their order.
fn permutation(seed: u64, epoch: u64, samples: usize) -> Vec<u32> {
    let mut stream = Stream::new(seed, epoch, Purpose::Order, 0);
    let mut order: Vec<u32> = (0..samples as u32).collect();
    for i in (1..samples).rev() {
        order.swap(i, stream.below(i as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{between, fresh_seed, stream};

    #[test]
    fn every_sample_comes_exactly_once_an_epoch_wherever_a_run_resumes() {
        let seed = fresh_seed();
        let mut stream = stream(seed);
        for case in 0..10_000 {
            let samples = between(&mut stream, 1, 60);
            let batch = between(&mut stream, 1, 40) as u64;
            let run_seed = stream.next_u64();
            let first_epoch = stream.below(1 << 40);
            let (from, to) = (first_epoch * samples as u64, (first_epoch + 2) * samples as u64);
            let resume = from + stream.below(to - from) / batch * batch;
            let one = Order::new(run_seed, samples).expect("at least one sample");
            let two = Order::new(run_seed, samples).expect("at least one sample");
            let mut seen = vec![0; samples];
            for position in from..to {
                let order = if position < resume { &one } else { &two };
                seen[order.sample(position)] += 1;
                let nothing_missing = seen.iter().all(|&n| n == 1);
                let end_of_first = position + 1 == from + samples as u64;
                assert!(
                    !end_of_first || nothing_missing,
                    "seed {seed}, case {case}: {seen:?}"
                );
            }
            assert!(seen.iter().all(|&n| n == 2), "seed {seed}, case {case}: {seen:?}");
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_every_place_is_possible() {
        let seed = fresh_seed();
        assert_ne!(permutation(seed, 0, 50), permutation(seed, 1, 50), "seed {seed}");
        assert_ne!(
            permutation(seed, 0, 50),
            permutation(seed ^ 1, 0, 50),
            "seed {seed}"
        );
        let mut first = [0u32; 5];
        for epoch in 0..10_000 {
            first[permutation(seed, epoch, 5)[0] as usize] += 1;
        }
        assert!(
            first.iter().all(|&n| (1_800..2_200).contains(&n)),
            "seed {seed}: {first:?}"
        );
    }

    #[test]
    fn the_order_is_pinned() {
        // The contract: a run of an older version must be resumable. Computed once with this code.
        assert_eq!(permutation(1, 0, 8), PINNED);
        let order = Order::new(1, 8).expect("eight samples");
        assert_eq!((0..8).map(|p| order.sample(p) as u32).collect::<Vec<_>>(), PINNED);
    }

    const PINNED: [u32; 8] = [6, 7, 1, 2, 5, 3, 0, 4];

    #[test]
    fn replacements_are_a_function_of_position_and_attempt() {
        let seed = fresh_seed();
        let order = Order::new(seed, 1000).expect("a thousand samples");
        let draws: Vec<usize> = (0..20).map(|attempt| order.replacement(5, attempt)).collect();
        let again: Vec<usize> = (0..20).map(|attempt| order.replacement(5, attempt)).collect();
        assert_eq!(draws, again);
        assert!(draws.iter().any(|&draw| draw != draws[0]), "seed {seed}");
        assert_ne!(
            draws,
            (0..20).map(|k| order.replacement(6, k)).collect::<Vec<_>>(),
            "seed {seed}"
        );
    }

    #[test]
    fn an_empty_split_is_refused() {
        let error = Order::new(1, 0).expect_err("nothing to order").to_string();
        assert!(
            error.contains("expected 1 to") && error.contains("found 0"),
            "{error}"
        );
    }
}
