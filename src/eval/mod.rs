//! Evaluation: how images are looked at, and what is counted.

mod averages;
mod center;
mod ensemble;
mod features;
mod files;
mod look;
mod network;
mod paper;
mod replicas;
mod rows;
mod tally;
mod views;

pub use averages::{Averages, ScoreAverage};
pub use center::{Center, evaluate};
pub use ensemble::{Ensemble, Member};
pub use features::{AcrossScales, Features, WantedFeatures, features};
pub use files::Files;
pub use look::{Look, Protocol};
pub use network::{Resources, check_classes, posteriors};
pub use paper::{PaperNet, PaperRow, PaperTable, Published, TestScales, TrainedAt};
pub use rows::{Component, Rows};
pub use tally::{Tally, tally};
