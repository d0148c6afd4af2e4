//! Counting: every image exactly once, errors as integers, losses summed in stream order in f64.

use std::collections::VecDeque;

use crate::data::loader::{Action, BadEvent, Loader, NO_LABEL, SlotMemory};
use crate::error::{BadSample, Result};
use crate::exec::{IN_FLIGHT, Score};
use crate::plan::Batch;

/// What an evaluation counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tally {
    /// Images counted.
    pub n: u64,
    /// Of them, with the true class ranked first.
    pub correct1: u64,
    /// Of them, with the true class among the five best.
    pub correct5: u64,
    /// Sum of the cross-entropies.
    pub loss_sum: f64,
    /// Images with which something is wrong. Those that were left out are not in `n`.
    pub bad: Vec<BadEvent>,
}

impl Tally {
    /// Top-1 error in percent; NaN where nothing was counted.
    pub fn top1_error(&self) -> f64 {
        self.error(self.correct1)
    }

    /// Top-5 error in percent.
    pub fn top5_error(&self) -> f64 {
        self.error(self.correct5)
    }

    /// Mean cross-entropy.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.n as f64
    }

    /// Images that could not be read and are not counted.
    pub fn left_out(&self) -> impl Iterator<Item = &BadSample> {
        self.bad
            .iter()
            .filter(|event| event.action == Action::LeftOut)
            .map(|event| &event.sample)
    }

    /// Counts one image: its cross-entropy and the rank of its true class.
    pub(super) fn add(&mut self, loss: f64, rank: u32) {
        self.n += 1;
        self.correct1 += u64::from(rank < 1);
        self.correct5 += u64::from(rank < 5);
        self.loss_sum += loss;
    }

    fn error(&self, correct: u64) -> f64 {
        100.0 * (self.n - correct) as f64 / self.n as f64
    }

    /// Counts the oldest micro-batch that is under way; what is known of it are its labels.
    fn count(&mut self, under_way: &mut VecDeque<Vec<u32>>, scorer: &mut impl Score) -> Result<()> {
        let Some(labels) = under_way.pop_front() else {
            return Ok(());
        };
        let outcomes = scorer.collect()?;
        let scored = outcomes.losses.iter().zip(&outcomes.ranks).zip(&labels);
        for ((&loss, &rank), _) in scored.filter(|(_, label)| **label != NO_LABEL) {
            self.add(f64::from(loss), rank);
        }
        Ok(())
    }
}

/// Scores every micro-batch of `loader`, in order, for as long as `go_on` says so; loading and scoring overlap.
///
/// Rows without an image (the padding of the last micro-batch, unreadable images) are scored as class 0, to keep the
/// shape, and not counted.
pub fn tally<M: SlotMemory>(
    loader: &mut Loader<M>,
    scorer: &mut impl Score,
    mut go_on: impl FnMut() -> bool,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
    while go_on()
        && let Some(slot) = loader.next_slot()?
    {
        if under_way.len() == IN_FLIGHT {
            tally.count(&mut under_way, scorer)?;
        }
        let labels: Vec<u32> = slot
            .labels
            .iter()
            .map(|&label| if label == NO_LABEL { 0 } else { label })
            .collect();
        scorer.submit(Batch {
            pixels: slot.pixels.as_ref(),
            flips: &slot.flips,
            colours: &slot.colours,
            labels: &labels,
        })?;
        under_way.push_back(slot.labels.clone());
        tally.bad.extend(slot.bad.iter().cloned());
    }
    while !under_way.is_empty() {
        tally.count(&mut under_way, scorer)?;
    }
    Ok(tally)
}
