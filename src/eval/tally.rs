//! Counting: every image exactly once, errors as integers, losses summed in stream order in f64.

use crate::data::loader::{Action, BadEvent, Loader, NO_LABEL};
use crate::error::{BadSample, Result};
use crate::exec::Outcomes;
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

    fn error(&self, correct: u64) -> f64 {
        100.0 * (self.n - correct) as f64 / self.n as f64
    }
}

/// Runs `score` over every micro-batch of `loader`, in order. `score` fills the outcomes and says whether to go on.
///
/// Rows without an image (the padding of the last micro-batch, unreadable images) are scored as class 0, to keep the
/// shape, and not counted.
pub fn tally(
    loader: &mut Loader,
    mut score: impl FnMut(Batch<'_>, &mut Outcomes) -> Result<bool>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut outcomes = Outcomes::default();
    let mut labels = Vec::new();
    while let Some(slot) = loader.next_slot()? {
        labels.clear();
        labels.extend(
            slot.labels
                .iter()
                .map(|&label| if label == NO_LABEL { 0 } else { label }),
        );
        let batch = Batch {
            pixels: &slot.pixels,
            flips: &slot.flips,
            colours: &slot.colours,
            labels: &labels,
        };
        if !score(batch, &mut outcomes)? {
            break;
        }
        let scored = outcomes.losses.iter().zip(&outcomes.ranks).zip(&slot.labels);
        for ((&loss, &rank), _) in scored.filter(|(_, label)| **label != NO_LABEL) {
            tally.n += 1;
            tally.correct1 += u64::from(rank < 1);
            tally.correct5 += u64::from(rank < 5);
            tally.loss_sum += f64::from(loss);
        }
        tally.bad.extend(slot.bad.iter().cloned());
    }
    Ok(tally)
}
