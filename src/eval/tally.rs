//! Counting: every image exactly once, errors as integers, losses summed in f64: in stream order within a micro-batch,
//! then micro-batch by micro-batch, whoever scored them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::data::loader::{Action, BadEvent, Loader, NO_LABEL, SlotMemory};
use crate::error::{BadSample, Error, Result};
use crate::exec::{IN_FLIGHT, Outcomes, Score};
use crate::plan::Batch;

/// What an evaluation counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Images counted.
    pub n: u64,
    /// Of them, with the true class ranked first.
    pub correct1: u64,
    /// Of them, with the true class among the five best.
    pub correct5: u64,
    /// Sum of the cross-entropies.
    #[serde(with = "bits")]
    pub loss_sum: f64,
    /// Images with which something is wrong. Those that were left out are not in `n`.
    pub bad: Vec<BadEvent>,
    /// Where in the stream the first image is whose cross-entropy is not finite.
    #[serde(skip)]
    pub not_finite: Option<u64>,
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

    /// Refuses a count of nothing: every image was left out.
    pub fn check_counted(&self) -> Result<()> {
        match self.left_out().next() {
            Some(first) if self.n == 0 => {
                let bad = self.left_out().count() as u64;
                Err(Error::BadData {
                    bad,
                    samples: bad,
                    first: Box::new(first.clone()),
                })
            }
            _ => Ok(()),
        }
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

    /// The sum of those of consecutive micro-batches.
    pub fn total(tallies: impl IntoIterator<Item = Self>) -> Self {
        tallies.into_iter().fold(Self::default(), |mut total, tally| {
            total.n += tally.n;
            total.correct1 += tally.correct1;
            total.correct5 += tally.correct5;
            total.loss_sum += tally.loss_sum;
            total.bad.extend(tally.bad);
            total.not_finite = total.not_finite.or(tally.not_finite);
            total
        })
    }

    /// The sum where replicas scored micro-batches in turn: the first of each, then the second of each, and so on.
    pub fn of_turns(replicas: Vec<Vec<Self>>) -> Self {
        let turns = replicas.iter().map(Vec::len).max().unwrap_or(0);
        let mut replicas: Vec<_> = replicas.into_iter().map(Vec::into_iter).collect();
        Self::total((0..turns).flat_map(|_| {
            let turn: Vec<_> = replicas.iter_mut().filter_map(Iterator::next).collect();
            turn
        }))
    }

    /// Counts a micro-batch.
    fn count(&mut self, outcomes: &Outcomes, rows: &Labelled) {
        let scored = outcomes.losses.iter().zip(&outcomes.ranks);
        let scored = scored.zip(rows.labels.iter().zip(&rows.positions));
        for ((&loss, &rank), (_, &position)) in scored.filter(|(_, (label, _))| **label != NO_LABEL) {
            self.add(f64::from(loss), rank);
            if !loss.is_finite() {
                self.not_finite.get_or_insert(position);
            }
        }
    }
}

/// Whose scores a micro-batch has.
struct Labelled {
    labels: Vec<u32>,
    positions: Vec<u64>,
}

/// A float as its bits: JSON has no NaN.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// Scores every micro-batch of `loader`, in order, for as long as `go_on` says so; loading and scoring overlap. A tally
/// of each.
///
/// Rows without an image (the padding of the last micro-batch, unreadable images) are scored as class 0, to keep the
/// shape, and not counted.
pub fn tally<M: SlotMemory>(
    loader: &mut Loader<M>,
    scorer: &mut impl Score,
    mut go_on: impl FnMut() -> bool,
) -> Result<Vec<Tally>> {
    let mut tallies: Vec<Tally> = Vec::new();
    // Those of the micro-batches that are under way, which are the last of `tallies`.
    let mut under_way: VecDeque<Labelled> = VecDeque::with_capacity(IN_FLIGHT);
    loop {
        let slot = if go_on() { loader.next_slot()? } else { None };
        if (slot.is_none() || under_way.len() == IN_FLIGHT)
            && let Some(rows) = under_way.pop_front()
        {
            let oldest = tallies.len() - 1 - under_way.len();
            tallies[oldest].count(scorer.collect()?, &rows);
        }
        let Some(slot) = slot else {
            if under_way.is_empty() {
                return Ok(tallies);
            }
            continue;
        };
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
        under_way.push_back(Labelled {
            labels: slot.labels.clone(),
            positions: slot.positions.clone(),
        });
        tallies.push(Tally {
            bad: slot.bad.clone(),
            ..Tally::default()
        });
    }
}
