//! Training: the recipe, the schedule, the trainer, the run log.

pub mod diff;
pub mod event;
pub mod log;
mod recipe;
pub mod schedule;

pub use recipe::{OnBad, PAPER_EPOCHS, Recipe, compare_classes, equivalence_class};
