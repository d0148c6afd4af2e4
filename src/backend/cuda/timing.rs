//! How long enqueued work takes the device.

use std::time::Instant;

use super::launch::Launcher;
use crate::error::Result;

/// Samples of a measurement; the best counts.
const SAMPLES: usize = 5;
/// A sample lasts about this many seconds, so that enqueueing does not count...
const SAMPLE_SECONDS: f64 = 0.002;
/// ... but is at most this many executions.
const MOST_EXECUTIONS: usize = 50;

/// Seconds of one execution: the best of some samples, each from an idle device to an idle device, after an execution
/// that is not measured.
pub(super) fn seconds(launcher: &Launcher, enqueue: impl Fn() -> Result<()>) -> Result<f64> {
    let sample = |executions: usize| {
        launcher.synchronize()?;
        let started = Instant::now();
        (0..executions).try_for_each(|_| enqueue())?;
        launcher.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / executions as f64)
    };
    sample(1)?;
    let mut best = sample(1)?;
    let executions = (SAMPLE_SECONDS / best.max(1e-9)).ceil() as usize;
    for _ in 1..SAMPLES {
        best = best.min(sample(executions.clamp(1, MOST_EXECUTIONS))?);
    }
    Ok(best)
}
