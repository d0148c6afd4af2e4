//! One micro-batch.

use crate::data::augment::View;
use crate::data::preprocess::Flip;
use crate::error::{BadSample, Error};
use serde::{Deserialize, Serialize};

/// The label of a row that counts for nothing: padding of a partial micro-batch, or an unreadable image of an
/// evaluation. Its pixels are zero.
pub const NO_LABEL: u32 = u32::MAX;

/// Samples as the loader leaves them: rendered, but not yet flipped, coloured or normalised, which is the back end's
/// input finishing.
#[derive(Debug)]
pub struct Slot<B = Vec<u8>> {
    /// (n, crop, crop, 3) RGB8.
    pub pixels: B,
    /// (n): mirror or not.
    pub flips: Vec<Flip>,
    /// (n): added to red, green and blue, in 8-bit levels.
    pub colours: Vec<[f32; 3]>,
    /// (n): class indices, or [`NO_LABEL`].
    pub labels: Vec<u32>,
    /// (n): absolute stream positions; those of padding go on counting.
    pub positions: Vec<u64>,
    /// Rows that stand for positions of the stream; the rest is padding.
    pub samples: usize,
    /// What was wrong with images of this slot, in the order of the stream.
    pub bad: Vec<BadEvent>,
    /// The first reason, in the order of the stream, why the stream cannot go on.
    failure: Option<(u64, Error)>,
}

/// What happened to an image with which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadEvent {
    /// Where in the stream.
    pub position: u64,
    /// Which image, and what is wrong.
    #[serde(flatten)]
    pub sample: BadSample,
    /// What was done about it.
    pub action: Action,
}

/// What is done about a bad image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It decoded, at least in part, and is used.
    Kept,
    /// Training: another sample stands in its place.
    Replaced,
    /// Evaluation: it does not count.
    LeftOut,
}

/// What a worker found out about one row; its pixels are handed over separately.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// `None` where there is no image: the row becomes padding.
    pub(super) label: Option<u32>,
    pub(super) view: Option<View>,
    pub(super) bad: Vec<BadEvent>,
    pub(super) failure: Option<Error>,
}

/// Bytes of a slot's pixels: `samples` RGB8 squares of `crop` pixels.
pub const fn slot_pixels(samples: usize, crop: usize) -> usize {
    samples * crop * crop * 3
}

/// Bytes of a ring of `slots` micro-batches of `samples` squares of `crop` pixels.
pub const fn ring_bytes(slots: usize, samples: usize, crop: usize) -> u64 {
    let row = size_of::<Flip>() + size_of::<[f32; 3]>() + size_of::<u32>() + size_of::<u64>();
    slots as u64 * (slot_pixels(samples, crop) as u64 + samples as u64 * row as u64)
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Slot<B> {
    /// An empty slot of `samples` rows.
    pub(super) fn new(pixels: B, samples: usize) -> Self {
        Self {
            pixels,
            flips: vec![Flip::Keep; samples],
            colours: vec![[0.0; 3]; samples],
            labels: vec![NO_LABEL; samples],
            positions: vec![0; samples],
            samples: 0,
            bad: Vec::new(),
            failure: None,
        }
    }

    /// The pixels of one row, (crop, crop, 3) RGB8.
    pub fn image(&self, row: usize) -> &[u8] {
        let pixels = self.pixels.as_ref();
        let bytes = pixels.len() / self.labels.len();
        &pixels[row * bytes..][..bytes]
    }

    /// Rows that count.
    pub fn counted(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NO_LABEL).count()
    }

    /// Makes the slot ready for the `samples` positions from `first` on. Rows beyond them become padding.
    pub(super) fn prepare(&mut self, first: u64, samples: usize) {
        self.samples = samples;
        self.bad.clear();
        self.failure = None;
        for (row, position) in self.positions.iter_mut().enumerate() {
            *position = first.wrapping_add(row as u64);
        }
        for row in samples..self.labels.len() {
            self.clear(row);
        }
    }

    /// Stores a finished row.
    pub(super) fn store(&mut self, index: usize, row: Row, pixels: &[u8]) {
        match (row.label, row.view) {
            (Some(label), Some(view)) => {
                let bytes = pixels.len();
                self.pixels.as_mut()[index * bytes..][..bytes].copy_from_slice(pixels);
                self.labels[index] = label;
                self.flips[index] = view.flip;
                self.colours[index] = view.colour;
            }
            _ => self.clear(index),
        }
        self.bad.extend(row.bad);
        if let Some(error) = row.failure {
            let position = self.positions[index];
            if self
                .failure
                .as_ref()
                .is_none_or(|(earlier, _)| position < *earlier)
            {
                self.failure = Some((position, error));
            }
        }
    }

    /// Brings what the workers reported into the order of the stream. The order within one position is kept.
    pub(super) fn complete(&mut self) {
        self.bad.sort_by_key(|event| event.position);
    }

    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take().map(|(_, error)| error)
    }

    fn clear(&mut self, row: usize) {
        let bytes = self.pixels.as_ref().len() / self.labels.len();
        self.pixels.as_mut()[row * bytes..][..bytes].fill(0);
        self.labels[row] = NO_LABEL;
        self.flips[row] = Flip::Keep;
        self.colours[row] = [0.0; 3];
    }
}
