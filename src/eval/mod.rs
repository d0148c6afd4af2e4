//! Evaluation: how images are looked at, and what is counted.

mod tally;

pub use tally::{Tally, tally};
