//! Evaluation: how images are looked at, and what is counted.

mod averages;
mod center;
mod ensemble;
mod files;
mod look;
mod network;
mod tally;
mod views;

pub use averages::{Averages, ScoreAverage};
pub use center::{Center, evaluate};
pub use ensemble::{Ensemble, Member};
pub use files::Files;
pub use look::{Look, Protocol};
pub use network::{Resources, posteriors};
pub use tally::{Tally, tally};
