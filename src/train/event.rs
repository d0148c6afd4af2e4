//! What happens in a run: the lines of `log.jsonl`, and what observers see.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::loader::Action;
use crate::error::BadSample;
use crate::exec::FoldOf;
use crate::parallel::ExchangeTimes;

/// One event. Its JSON is the contract of CLI.md; times are in seconds, errors in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process starts or resumes the run.
    Start {
        /// The decided recipe.
        recipe: Value,
        /// The equivalence class: what the bits depend on.
        class: Value,
        /// Finished steps at this point.
        step: u64,
        /// Steps of the whole run.
        total_steps: u64,
        /// Training samples.
        samples: u64,
        /// Checkpoints that were damaged and passed over.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        passed_over: Vec<String>,
        /// Version of the program.
        version: String,
    },
    /// A step is finished.
    Step {
        /// Finished steps.
        step: u64,
        /// Finished epochs, with the fraction of the one under way.
        epoch: f64,
        /// Mean cross-entropy before the update, without the L2 term.
        #[serde(deserialize_with = "number_or_nan")]
        loss: f64,
        /// Learning rate of the step.
        lr: f32,
        /// Images per second of this step.
        images_per_sec: f64,
        /// Seconds of this step spent waiting for images.
        data_stall: f64,
        /// Where replicas are on several devices: what their exchange took on the first one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exchange: Option<ExchangeTimes>,
    },
    /// The network was validated.
    Validation {
        /// Finished steps.
        step: u64,
        /// Top-1 error in percent.
        top1_error: f64,
        /// Top-5 error in percent.
        top5_error: f64,
        /// Top-1 accuracy in percent.
        top1: f64,
        /// Top-5 accuracy in percent.
        top5: f64,
        /// Mean cross-entropy.
        #[serde(deserialize_with = "number_or_nan")]
        loss: f64,
        /// Images counted.
        n: u64,
        /// Hash of the weights.
        weights_sha256: String,
        /// Seconds it took.
        seconds: f64,
    },
    /// A checkpoint is on disk.
    Checkpoint {
        /// Finished steps.
        step: u64,
        /// Its path within the run folder.
        file: String,
        /// Hash of the weights.
        weights_sha256: String,
        /// Hash of weights, momentum, step and schedule.
        state_sha256: String,
        /// Seconds it took.
        seconds: f64,
    },
    /// A sample that cannot be used as it is.
    BadSample {
        /// The step that reads it; absent in a validation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u64>,
        /// Where it lies and what is wrong.
        #[serde(flatten)]
        sample: BadSample,
        /// What was done about it.
        action: Action,
    },
    /// Something worth a look.
    Warning {
        /// Finished steps.
        step: u64,
        /// What it is and what to do.
        message: String,
    },
    /// Nothing was found where silent corruption was looked for.
    Audit {
        /// Finished steps, this one included.
        step: u64,
        /// Micro-batches that were computed twice.
        micro_batches: usize,
        /// Seconds that this took of the step, folds included, on the slowest replica.
        seconds: f64,
    },
    /// Folds of everything that a step computed.
    Folds {
        /// Finished steps, this one included.
        step: u64,
        /// In the order of computation.
        folds: Vec<Fold>,
    },
    /// The run ends, or this process does.
    End {
        /// Finished steps.
        step: u64,
        /// `finished`, or the signal or error that stopped it.
        reason: String,
        /// Hash of the weights; empty where this process does not have all of the state of the last finished step.
        weights_sha256: String,
        /// Hash of weights, momentum, step and schedule; empty likewise.
        state_sha256: String,
        /// Training images per second of this process, validation and checkpoints excluded.
        images_per_sec: f64,
        /// The process exit code.
        exit: u8,
        /// The last validation's top-1 accuracy in percent, if there was one.
        top1: Option<f64>,
        /// The last validation's top-5 accuracy in percent, if there was one.
        top5: Option<f64>,
    },
}

/// One fold: a 64-bit fingerprint of what one step computed for one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// Micro-batch within the step.
    pub micro_batch: usize,
    /// The layer's name.
    pub layer: String,
    /// What was folded.
    pub pass: FoldOf,
    /// Hexadecimal.
    pub fold: String,
}

impl Event {
    /// Finished steps at the event, where it has them.
    pub fn step(&self) -> Option<u64> {
        match self {
            Self::Start { .. } => None,
            Self::BadSample { step, .. } => *step,
            Self::Step { step, .. }
            | Self::Validation { step, .. }
            | Self::Checkpoint { step, .. }
            | Self::Warning { step, .. }
            | Self::Audit { step, .. }
            | Self::Folds { step, .. }
            | Self::End { step, .. } => Some(*step),
        }
    }
}

/// Sees every event as it happens.
pub trait Observer {
    /// `event` has just happened (and is in the log).
    fn event(&mut self, event: &Event);
}

/// JSON has no NaN and no infinity: a loss that is not finite is written as null, and read as NaN.
fn number_or_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(<Option<f64> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
