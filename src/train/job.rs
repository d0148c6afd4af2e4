//! Everything that a run needs besides a back end, and what becomes of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::Event;
use super::recipe::Recipe;
use super::schedule::PlateauState;
use super::start::Start;
use super::stop::Stop;
use crate::data::preprocess::Preprocess;
use crate::data::shards::Dataset;
use crate::error::{Error, Result};
use crate::exec::BitFlip;
use crate::network::Network;
use crate::plan::WalkOrder;
use crate::weights::RunFolder;

/// How far a run is, besides weights and momentum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Finished steps.
    pub step: u64,
    /// State of the schedule.
    pub schedule: ScheduleState,
}

/// What the schedule remembers. Integers only, so that its hash is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// What the plateau rule has seen.
    #[serde(flatten)]
    pub plateau: PlateauState,
    /// The step of the last validation that was due; a run stopped during one does it again.
    pub validated_at: u64,
}

/// Everything that a run needs besides a back end.
pub struct Job {
    /// What to do.
    pub recipe: Recipe,
    /// Where to write.
    pub run: RunFolder,
    /// The network.
    pub network: Network,
    /// From pixels to its input.
    pub preprocess: Preprocess,
    /// Training images.
    pub training: Arc<Dataset>,
    /// Validation images; `None` or empty where there are none.
    pub validation: Option<Arc<Dataset>>,
    /// The equivalence class.
    pub class: Value,
    /// Where it starts from.
    pub start: Start,
    /// Whether to stop.
    pub stop: Stop,
    /// In which order the micro-batches of a step are walked. Changes no bit.
    pub walk: WalkOrder,
    /// A fault to plant, for tests; its micro-batch counts within the global batch.
    pub flip: Option<BitFlip>,
}

/// How a run ended: the `end` event, and the error where there was one.
#[derive(Debug)]
pub struct Ended {
    /// The last line of the log; `None` in a process that has no log.
    pub event: Option<Event>,
    /// Why, if not by reaching its last step.
    pub error: Option<Error>,
}

impl Job {
    /// Refuses what cannot work, before anything is allocated.
    pub(super) fn check(&self) -> Result<()> {
        self.recipe.check_watched(self.validation.as_deref())
    }
}
