//! Filling one row: read, decode, resample, and what happens where that fails.

use super::slot::{Action, BadEvent, Row, slot_pixels};
use super::source::Source;
use super::stats::Work;
use crate::data::augment::{View, Views};
use crate::data::order::Order;
use crate::data::render::Worker;
use crate::error::{BadSample, Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

/// Replacements tried before a stream is given up: with half of all samples bad, that happens once in 10^30 rows.
const MAX_ATTEMPTS: u16 = 100;

/// What happens to an image that cannot be read or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBad {
    /// It is named and passed over: replaced in training, left out in evaluation.
    Skip,
    /// It ends the run.
    Fail,
}

impl FromStr for OnBad {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "skip" => Ok(Self::Skip),
            "fail" => Ok(Self::Fail),
            _ => Err(Error::invalid(
                "--on-bad",
                "skip or fail",
                format_args!("'{text}'"),
            )),
        }
    }
}

/// What a stream position means.
#[derive(Debug)]
pub enum Mode {
    /// The sample that stands there in the endless order; unreadable ones are replaced and keep their view.
    Train {
        /// The order of the run.
        order: Order,
        /// For unreadable images.
        on_bad: OnBad,
    },
    /// The sample of that index; unreadable ones are left out, never replaced.
    Evaluate {
        /// For unreadable images.
        on_bad: OnBad,
    },
}

/// Knows what belongs at every position. Shared by all workers.
#[derive(Debug)]
pub(super) struct Filler {
    source: Arc<dyn Source>,
    views: Views,
    mode: Mode,
}

/// One worker's tools and the row that it made last.
pub(super) struct Painter {
    worker: Worker,
    compressed: Vec<u8>,
    pixels: Vec<u8>,
    work: Work,
}

impl Painter {
    /// (crop, crop, 3) RGB8 of the row that was filled last.
    pub(super) fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The work done since the last call.
    pub(super) fn take_work(&mut self) -> Work {
        let times = self.worker.take_times();
        Work {
            decode: times.decode,
            resize: times.resize,
            ..std::mem::take(&mut self.work)
        }
    }
}

impl Filler {
    pub(super) fn new(source: Arc<dyn Source>, views: Views, mode: Mode) -> Self {
        Self { source, views, mode }
    }

    pub(super) fn painter(&self) -> Painter {
        Painter {
            worker: Worker::with_exif(self.views.exif()),
            compressed: Vec::new(),
            pixels: vec![0; slot_pixels(1, self.views.crop())],
            work: Work::default(),
        }
    }

    /// Makes the row of `position` in the painter's pixels.
    pub(super) fn fill(&self, painter: &mut Painter, position: u64) -> Row {
        let view = self.views.at(position);
        let mut row = Row {
            view: Some(view),
            ..Row::default()
        };
        let outcome = match &self.mode {
            Mode::Train { order, on_bad } => self.train(painter, position, &view, order, *on_bad, &mut row),
            Mode::Evaluate { on_bad } => self.evaluate(painter, position, &view, *on_bad, &mut row),
        };
        match outcome {
            Ok(label) => row.label = label,
            Err(error) => row.failure = Some(error),
        }
        row
    }

    fn train(
        &self,
        painter: &mut Painter,
        position: u64,
        view: &View,
        order: &Order,
        on_bad: OnBad,
        row: &mut Row,
    ) -> Result<Option<u32>> {
        let mut sample = order.sample(position);
        for attempt in 0..MAX_ATTEMPTS {
            let Some(bad) = self.show(painter, sample, position, view, row)? else {
                return Ok(Some(self.source.label(sample)));
            };
            self.refuse(on_bad, &bad)?;
            row.bad.push(BadEvent {
                position,
                sample: bad,
                action: Action::Replaced,
            });
            sample = order.replacement(position, attempt);
        }
        Err(Error::BadData {
            bad: u64::from(MAX_ATTEMPTS),
            samples: u64::from(MAX_ATTEMPTS),
            first: Box::new(row.bad.swap_remove(0).sample),
        })
    }

    fn evaluate(
        &self,
        painter: &mut Painter,
        position: u64,
        view: &View,
        on_bad: OnBad,
        row: &mut Row,
    ) -> Result<Option<u32>> {
        let sample = usize::try_from(position)
            .ok()
            .filter(|&sample| sample < self.source.len());
        let sample = sample.ok_or_else(|| {
            Error::invalid(
                "evaluation",
                format!("positions below {}, the number of samples", self.source.len()),
                position,
            )
        })?;
        let Some(bad) = self.show(painter, sample, position, view, row)? else {
            return Ok(Some(self.source.label(sample)));
        };
        self.refuse(on_bad, &bad)?;
        row.bad.push(BadEvent {
            position,
            sample: bad,
            action: Action::LeftOut,
        });
        Ok(None)
    }

    fn refuse(&self, on_bad: OnBad, bad: &BadSample) -> Result<()> {
        match on_bad {
            OnBad::Skip => Ok(()),
            OnBad::Fail => Err(Error::BadData {
                bad: 1,
                samples: self.source.len() as u64,
                first: Box::new(bad.clone()),
            }),
        }
    }

    /// Renders a sample. Returns what makes it unusable, if anything does; what is merely odd goes into `row`.
    fn show(
        &self,
        painter: &mut Painter,
        sample: usize,
        position: u64,
        view: &View,
        row: &mut Row,
    ) -> Result<Option<BadSample>> {
        let start = Instant::now();
        let bytes = match self.source.read(sample, &mut painter.compressed) {
            Ok(bytes) => bytes,
            Err(Error::Sample(bad)) => return Ok(Some(*bad)),
            Err(error) => return Err(error),
        };
        painter.work.read += start.elapsed();
        painter.work.images += 1;
        painter.work.bytes += bytes.len() as u64;
        let rendered = painter
            .worker
            .render(bytes, view, self.views.crop(), &mut painter.pixels);
        self.source.confirm(sample)?;
        match rendered {
            Err(error) => Ok(Some(self.source.bad_sample(sample, error.0))),
            Ok(None) => Ok(None),
            Ok(Some(warning)) => {
                row.bad.push(BadEvent {
                    position,
                    sample: self.source.bad_sample(sample, warning),
                    action: Action::Kept,
                });
                Ok(None)
            }
        }
    }
}
