//! Evaluation: how images are looked at, and what is counted.

mod center;
mod tally;

pub use center::{Center, Classifier, evaluate};
pub use tally::{Tally, tally};
