//! How long the exchange of a step takes, and how much of it the backward pass hides.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaContext, CudaEvent, DriverError};
use serde::{Deserialize, Serialize};

use crate::backend::cuda::launch::Launcher;
use crate::error::Result;

/// Seconds of a step's exchange with other replicas, by the device's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExchangeTimes {
    /// Gradients on their way, waiting for other replicas and additions included.
    pub reduce: f64,
    /// What of that came after the end of the backward pass: what was not hidden.
    pub exposed: f64,
    /// Weights on their way back: not hidden.
    pub gather: f64,
}

/// An event that has a time.
pub(super) fn timed_event(context: &Arc<CudaContext>) -> Result<CudaEvent, DriverError> {
    context.new_event(Some(CU_EVENT_DEFAULT))
}

/// Parts of a step's work on one stream. Events are made once and used again in every step.
#[derive(Default)]
pub(super) struct Spans {
    events: Vec<[CudaEvent; 2]>,
    used: usize,
}

impl Spans {
    /// Work begins that is enqueued from here on.
    pub(super) fn begin(&mut self, launcher: &Launcher) -> Result<()> {
        let stream = launcher.stream();
        if self.used == self.events.len() {
            let event = || launcher.check("creating an event", timed_event(stream.context()));
            self.events.push([event()?, event()?]);
        }
        launcher.check("recording a time", self.events[self.used][0].record(stream))
    }

    /// It ends with what is enqueued here.
    pub(super) fn end(&mut self, launcher: &Launcher) -> Result<()> {
        let recorded = self.events[self.used][1].record(launcher.stream());
        self.used += 1;
        launcher.check("recording a time", recorded)
    }

    /// Forgets them.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// Seconds of all of them, which are done.
    pub(super) fn seconds(&self, launcher: &Launcher) -> Result<f64> {
        let spans = self.events[..self.used].iter();
        spans.map(|[begin, end]| seconds(launcher, begin, end)).sum()
    }

    /// Seconds from `event` to the end of the last one, 0 where that was earlier.
    pub(super) fn seconds_after(&self, launcher: &Launcher, event: &CudaEvent) -> Result<f64> {
        let last = self.events[..self.used].last();
        let after = last.map(|[_, end]| seconds(launcher, event, end)).transpose()?;
        Ok(after.unwrap_or(0.0).max(0.0))
    }
}

fn seconds(launcher: &Launcher, begin: &CudaEvent, end: &CudaEvent) -> Result<f64> {
    let elapsed = launcher.check("reading a time", begin.elapsed_ms(end))?;
    Ok(f64::from(elapsed) / 1e3)
}
