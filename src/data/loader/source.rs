//! Where a loader's samples come from, and which of them it serves.

use crate::data::shards::Dataset;
use crate::error::{BadSample, Error, Result};

/// Compressed images that can be read at random, from any thread.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class index of a sample.
    fn label(&self, sample: usize) -> u32;

    /// The compressed bytes, in `scratch` or in memory of the source's own. [`Error::Sample`] is a bad sample; any
    /// other error ends the stream.
    fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]>;

    /// Whether what [`Source::read`] gave was what the source holds; to be asked after it has been used. A shard that is
    /// taken away while it is mapped reads as zeros.
    fn confirm(&self, _sample: usize) -> Result<()> {
        Ok(())
    }

    /// Names a sample and what is wrong with it.
    fn bad_sample(&self, sample: usize, reason: String) -> BadSample;
}

impl Source for Dataset {
    fn len(&self) -> usize {
        self.len()
    }

    fn label(&self, sample: usize) -> u32 {
        self.label(sample)
    }

    fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.read(sample, scratch)
    }

    fn confirm(&self, sample: usize) -> Result<()> {
        self.confirm(sample)
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        self.bad_sample(sample, reason)
    }
}

/// The absolute stream positions of a loader's slots.
///
/// Slot k starts at `start + (k / slots_per_step) * step + (k % slots_per_step) * micro_batch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    start: u64,
    step: u64,
    slots_per_step: u64,
    micro_batch: usize,
    end: Option<u64>,
}

impl Positions {
    /// All positions from `start` on, `micro_batch` to a slot, without end.
    pub fn from(start: u64, micro_batch: usize) -> Result<Self> {
        Self::share(start, micro_batch as u64, 1, micro_batch)
    }

    /// One replica's share of every step: of each `step` positions (the global batch), `slots_per_step` micro-batches,
    /// the first of which starts at `start` in the first step.
    pub fn share(start: u64, step: u64, slots_per_step: u64, micro_batch: usize) -> Result<Self> {
        let share = slots_per_step.checked_mul(micro_batch as u64);
        if share.is_none_or(|share| share == 0 || share > step) {
            return Err(Error::invalid_hint(
                "--micro-batch",
                format!("1 to {step} samples of a batch of {step}"),
                format!("{slots_per_step} micro-batches of {micro_batch}"),
                "micro-batches divide the batch",
            ));
        }
        Ok(Self {
            start,
            step,
            slots_per_step,
            micro_batch,
            end: None,
        })
    }

    /// The same, ending before position `end`; the last slot may be partly filled.
    pub fn until(self, end: u64) -> Self {
        Self {
            end: Some(end),
            ..self
        }
    }

    /// Samples of a slot.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch
    }

    /// First position and number of samples of slot `number`; `None` after the end.
    pub(super) fn slot(&self, number: u64) -> Option<(u64, usize)> {
        let step = (number / self.slots_per_step).checked_mul(self.step)?;
        let within = (number % self.slots_per_step) * self.micro_batch as u64;
        let first = self.start.checked_add(step)?.checked_add(within)?;
        let left = self.end.unwrap_or(u64::MAX).saturating_sub(first);
        (left > 0).then(|| {
            (
                first,
                self.micro_batch.min(usize::try_from(left).unwrap_or(usize::MAX)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::order::Order;
    use crate::data::testing::{between, fresh_seed, stream};
    use crate::rng::Stream;

    #[test]
    fn slots_follow_each_other_to_the_end() {
        let positions = Positions::from(100, 8).expect("a micro-batch").until(121);
        let slots: Vec<_> = (0..4).map(|number| positions.slot(number)).collect();
        assert_eq!(slots, [Some((100, 8)), Some((108, 8)), Some((116, 5)), None]);
        assert_eq!(
            Positions::from(0, 8).expect("a micro-batch").until(0).slot(0),
            None
        );
    }

    #[test]
    fn replicas_share_every_step() {
        let shares: Vec<Positions> = [0, 16]
            .into_iter()
            .map(|first| Positions::share(64 + first, 32, 2, 8).expect("half a batch"))
            .collect();
        let firsts = |share: &Positions| {
            (0..4)
                .filter_map(|k| share.slot(k))
                .map(|slot| slot.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(firsts(&shares[0]), [64, 72, 96, 104]);
        assert_eq!(firsts(&shares[1]), [80, 88, 112, 120]);
    }

    #[test]
    fn impossible_shares_are_refused_and_the_last_position_is_the_end() {
        for (step, slots, micro_batch) in [(32, 0, 8), (32, 2, 0), (32, 5, 8), (32, u64::MAX, 8)] {
            let error = Positions::share(0, step, slots, micro_batch)
                .expect_err("not a share")
                .to_string();
            assert!(error.starts_with("--micro-batch: expected"), "{error}");
        }
        assert_eq!(Positions::from(u64::MAX, 8).expect("a micro-batch").slot(1), None);
    }

    /// Two epochs with one number of replicas up to a step and another from there on, as after a resumption.
    #[test]
    fn every_sample_comes_exactly_once_an_epoch_whoever_reads_it_and_wherever_it_resumes() {
        let seed = fresh_seed();
        let mut draws = stream(seed);
        for case in 0..10_000 {
            let samples = between(&mut draws, 1, 60) as u64;
            let micro_batch = between(&mut draws, 1, 8);
            let micro_batches = 1u64 << draws.below(4);
            let replicas =
                |draws: &mut Stream| 1 << draws.below(u64::from(micro_batches.trailing_zeros()) + 1);
            let (before, after): (u64, u64) = (replicas(&mut draws), replicas(&mut draws));
            let batch = micro_batches * micro_batch as u64;
            let steps = (2 * samples).div_ceil(batch);
            let resumed = draws.below(steps + 1);
            let parts = [(0, resumed, before), (resumed, steps, after)];
            let positions = parts.into_iter().flat_map(|(from, to, replicas)| {
                let share = micro_batches / replicas;
                (0..replicas).flat_map(move |replica| {
                    let first = from * batch + replica * share * micro_batch as u64;
                    let own = Positions::share(first, batch, share, micro_batch).expect("a share");
                    let own = own.until(to * batch);
                    let slots: Vec<_> = (0..).map_while(|number| own.slot(number)).collect();
                    slots
                        .into_iter()
                        .flat_map(|(first, len)| first..first + len as u64)
                })
            });
            let mut times = vec![0; (steps * batch) as usize];
            positions.for_each(|position| times[position as usize] += 1);
            assert!(
                times.iter().all(|&n| n == 1),
                "seed {seed}, case {case}: {times:?}"
            );

            let order = Order::new(draws.next_u64(), samples as usize).expect("a sample");
            for epoch in 0..2 {
                let positions = epoch * samples..(epoch + 1) * samples;
                let mut seen: Vec<usize> = positions.map(|position| order.sample(position)).collect();
                seen.sort_unstable();
                assert!(
                    seen.iter().copied().eq(0..samples as usize),
                    "seed {seed}, case {case}: {seen:?}"
                );
            }
        }
    }
}
