//! Training: the recipe, the schedule, the trainer, the run log.

pub mod diff;
pub mod event;
mod folder;
pub mod log;
mod recipe;
pub mod schedule;
mod start;
mod stop;
mod stuck;
mod trainer;

pub use folder::{create_run, write_recipe};
pub use recipe::{PAPER_EPOCHS, Recipe, compare_classes, equivalence_class};
pub use start::Start;
pub use stop::Stop;
pub use trainer::{Ended, Job, LOADER_SLOTS, Progress, ScheduleState, train};
