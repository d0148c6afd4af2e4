//! Transformed filters that stay from one micro-batch to the next.
//!
//! With few images at a time, transforming the filters would take as long as a good part of the convolutions. Evaluation
//! plans keep them for as long as the weights do not change, and so do training plans that are walked several times in
//! between, those of the data gradient, too. All plans of a network share them, whatever the size of its images.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::super::{Buffer, Cpu};
use super::{Method, Orientation, Shape, winograd};
use crate::backend::cpu::memory::f32_bytes;
use crate::error::Result;
use crate::plan::{DataGradient, Mode, Plan, StepOp};

/// Images of a plan that keeps its filters, at most: with more of them, transforming costs next to nothing.
const MOST_IMAGES: usize = 8;

/// Filters of one layer, one way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filters {
    /// First element among all parameters.
    offset: usize,
    orientation: Orientation,
    /// Elements once they are transformed.
    len: usize,
}

/// The place of transformed filters.
struct Place {
    filters: Filters,
    /// In the buffer.
    range: Range<usize>,
    /// The version of the weights that is there.
    held: Option<u64>,
}

/// The filters of one network.
struct Kept {
    buffer: Buffer,
    places: Vec<Place>,
}

/// What a back end keeps: the filters of the plan prepared last that did not find its own here.
#[derive(Default)]
pub(in super::super) struct KeptFilters(Mutex<Option<Kept>>);

/// The weights that a step of a plan reads.
#[derive(Clone, Copy)]
pub(in super::super) struct Weights {
    /// First element of the step's among all parameters.
    offset: usize,
    /// See [`Buffer::version`].
    version: u64,
    /// Whether the plan keeps filters.
    is_kept: bool,
}

impl Weights {
    /// Those of version `version` that step `step` reads.
    pub(in super::super) fn new(plan: &Plan, step: usize, version: u64) -> Self {
        Self {
            offset: offset(plan, step),
            version,
            is_kept: keeps(plan),
        }
    }
}

/// First element of a step's parameters among all; 0 for a step without any.
fn offset(plan: &Plan, step: usize) -> usize {
    plan.parameters_of(step).first().map_or(0, |array| array.offset)
}

fn keeps(plan: &Plan) -> bool {
    let is_repeated = match plan.mode {
        Mode::Training => plan.walks > 1,
        Mode::Evaluation => true,
    };
    is_repeated && plan.batch <= MOST_IMAGES
}

/// What a plan keeps.
fn filters(cpu: &Cpu, plan: &Plan) -> Vec<Filters> {
    if !keeps(plan) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let StepOp::Conv { kernel, .. } = step.op else {
            continue;
        };
        let shape = Shape::forward(step, kernel);
        let Method::Winograd(size) = shape.method(cpu.convolution) else {
            continue;
        };
        let filters = |orientation, shape| Filters {
            offset: offset(plan, index),
            orientation,
            len: winograd::filter_elements(shape, size),
        };
        found.push(filters(Orientation::Straight, shape));
        if plan.mode == Mode::Training && step.data_gradient != DataGradient::None {
            found.push(filters(Orientation::Turned, shape.reversed()));
        }
    }
    found
}

/// Bytes that a plan's filters take.
pub(in super::super) fn bytes(cpu: &Cpu, plan: &Plan) -> usize {
    f32_bytes(filters(cpu, plan).iter().map(|filters| filters.len).sum())
}

impl KeptFilters {
    /// Makes room for the filters of a plan, instead of what is kept, unless all of them have it already.
    pub(in super::super) fn prepare(&self, cpu: &Cpu, plan: &Plan) -> Result<()> {
        let wanted = filters(cpu, plan);
        let mut kept = self.lock();
        if wanted.is_empty() {
            // Training goes on with what validation keeps.
            if plan.mode == Mode::Evaluation {
                *kept = None;
            }
            return Ok(());
        }
        let has = |filters: &Filters| {
            let places = kept.iter().flat_map(|kept| &kept.places);
            places.into_iter().any(|place| place.filters == *filters)
        };
        if wanted.iter().all(has) {
            return Ok(());
        }
        let mut end = 0;
        let places = wanted.into_iter().map(|filters| {
            let start = end;
            end += filters.len;
            Place {
                filters,
                range: start..end,
                held: None,
            }
        });
        let places = places.collect();
        *kept = None; // its buffer ends before the next one begins
        *kept = Some(Kept {
            buffer: Buffer::zeroed("transformed filters", f32_bytes(end))?,
            places,
        });
        Ok(())
    }

    /// Calls `call` with the place of the filters of `weights`, `len` elements transformed, and whether they have to be made.
    /// `false` if there is none, or another thread is using it.
    pub(super) fn with(
        &self,
        weights: Weights,
        orientation: Orientation,
        len: usize,
        call: impl FnOnce(&mut [f32], bool),
    ) -> bool {
        if !weights.is_kept {
            return false;
        }
        let mut kept = match self.0.try_lock() {
            Ok(kept) => kept,
            Err(TryLockError::Poisoned(kept)) => kept.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(Kept { buffer, places }) = kept.as_mut() else {
            return false;
        };
        let filters = Filters {
            offset: weights.offset,
            orientation,
            len,
        };
        let Some(place) = places.iter_mut().find(|place| place.filters == filters) else {
            return false;
        };
        let is_stale = place.held != Some(weights.version);
        place.held = None; // until the call has ended
        call(&mut buffer.as_mut_slice()[place.range.clone()], is_stale);
        place.held = Some(weights.version);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        // After a panic the place that was being written is marked as holding nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
