//! Training: the recipe, the schedule, the trainer, the run log.

mod audit;
mod bad;
pub mod diff;
pub mod event;
mod folder;
mod job;
mod journal;
pub mod log;
mod recipe;
mod replicas;
pub mod schedule;
mod start;
mod stop;
mod stuck;
mod trainer;

pub use bad::BAD_SAMPLES;
pub use folder::{create_run, write_recipe};
pub use job::{Ended, Job, Progress, ScheduleState};
pub use recipe::{PAPER_EPOCHS, Recipe, check_replicas, check_shares, compare_classes, equivalence_class};
pub use replicas::{train, train_on_devices};
pub use start::Start;
pub use stop::{Signal, Stop};
pub use trainer::LOADER_SLOTS;
