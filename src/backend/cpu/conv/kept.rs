//! Transformed filters that stay from one micro-batch to the next.
//!
//! Scoring few images at a time, transforming the filters would take as long as a good part of the convolutions. The
//! evaluation plan that was prepared last keeps them, for as long as the weights do not change. A plan of the same network
//! for images of another size takes them over.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::super::{Buffer, Cpu};
use super::{Method, Shape, winograd};
use crate::backend::cpu::memory::f32_bytes;
use crate::error::Result;
use crate::plan::{Mode, Plan, PlanId, Step, StepOp};

/// Images of a plan that keeps its filters, at most: with more of them, transforming costs next to nothing.
const MOST_IMAGES: usize = 8;

/// The filters of one plan.
struct Kept {
    plan: PlanId,
    buffer: Buffer,
    /// Of every step.
    places: Vec<Place>,
}

/// The place of one step's filters.
struct Place {
    /// First element of the filters among all parameters; 0 for a step without any.
    filters: usize,
    /// In the buffer.
    range: Range<usize>,
    /// The version of the weights that is there.
    held: Option<u64>,
}

impl Place {
    fn is_like(&self, other: &Self) -> bool {
        self.filters == other.filters && self.range == other.range
    }
}

/// What a back end keeps.
#[derive(Default)]
pub(in super::super) struct KeptFilters(Mutex<Option<Kept>>);

/// Elements of a step's transformed filters, where they are worth keeping.
fn elements(cpu: &Cpu, plan: &Plan, step: &Step) -> usize {
    if plan.mode == Mode::Training || plan.batch > MOST_IMAGES {
        return 0;
    }
    match step.op {
        StepOp::Conv { kernel, .. } => {
            let shape = Shape::forward(step, kernel);
            match shape.method(cpu.convolution) {
                Method::Winograd(size) => winograd::filter_elements(shape, size),
                Method::Direct => 0,
            }
        }
        StepOp::Input
        | StepOp::Windows { .. }
        | StepOp::AveragePool { .. }
        | StepOp::Linear { .. }
        | StepOp::BatchNorm { .. }
        | StepOp::Relu
        | StepOp::Lrn
        | StepOp::MaxPool
        | StepOp::Dropout { .. }
        | StepOp::Loss => 0,
    }
}

/// Bytes that a plan's filters take.
pub(in super::super) fn bytes(cpu: &Cpu, plan: &Plan) -> usize {
    let steps = plan.steps.iter();
    f32_bytes(steps.map(|step| elements(cpu, plan, step)).sum())
}

impl KeptFilters {
    /// Makes room for the filters of an evaluation plan, instead of those of the one before. A training plan changes
    /// nothing.
    pub(in super::super) fn prepare(&self, cpu: &Cpu, plan: &Plan) -> Result<()> {
        if plan.mode == Mode::Training {
            return Ok(());
        }
        let mut end = 0;
        let places = plan.steps.iter().enumerate().map(|(index, step)| {
            let start = end;
            end += elements(cpu, plan, step);
            Place {
                filters: plan.parameters_of(index).first().map_or(0, |array| array.offset),
                range: start..end,
                held: None,
            }
        });
        let places: Vec<Place> = places.collect();
        let mut kept = self.lock();
        let alike = |kept: &&mut Kept| {
            kept.places.len() == places.len() && kept.places.iter().zip(&places).all(|(a, b)| a.is_like(b))
        };
        if let Some(kept) = kept.as_mut().filter(alike) {
            kept.plan = plan.id;
            return Ok(());
        }
        *kept = None; // its buffer ends before the next one begins
        if end > 0 {
            *kept = Some(Kept {
                plan: plan.id,
                buffer: Buffer::zeroed("transformed filters", f32_bytes(end))?,
                places,
            });
        }
        Ok(())
    }

    /// Calls `call` with the place of a step's filters, and whether they have to be made. `false` if there is none, or
    /// another thread is using it.
    pub(super) fn with(
        &self,
        plan: PlanId,
        step: usize,
        version: u64,
        call: impl FnOnce(&mut [f32], bool),
    ) -> bool {
        let mut kept = match self.0.try_lock() {
            Ok(kept) => kept,
            Err(TryLockError::Poisoned(kept)) => kept.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(kept) = kept.as_mut().filter(|kept| kept.plan == plan) else {
            return false;
        };
        let Place { range, held, .. } = &mut kept.places[step];
        if range.start == range.end {
            return false;
        }
        let stale = *held != Some(version);
        *held = None; // until the call has ended
        call(&mut kept.buffer.as_mut_slice()[range.clone()], stale);
        *held = Some(version);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        // After a panic the place that was being written is marked as holding nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
