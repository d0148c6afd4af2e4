//! The paper's tables 3 to 7 as data: which networks a row needs, how they look at images, and what the paper found.

mod numbers;

use std::fmt;
use std::str::FromStr;

use super::look::Protocol;
use crate::error::{Error, Result};
use crate::network::Config;
use numbers::{MULTI_SCALE, SINGLE_SCALE, TABLE5, fused, single, table6, table7};

/// What a network of the paper was trained on: its shorter sides S.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedAt {
    /// S = 256.
    Low,
    /// S = 384.
    High,
    /// S in \[256; 512\].
    Jittered,
}

/// A network of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaperNet {
    /// Column of table 1.
    pub config: Config,
    /// What it was trained on.
    pub trained_at: TrainedAt,
}

/// How many test scales a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestScales {
    /// S, or the middle of the range.
    One,
    /// S - 32, S, S + 32; or both ends of the range and its middle.
    Three,
}

/// Errors in percent; `None` where the paper has no number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Top-1, validation.
    pub top1: Option<f64>,
    /// Top-5, validation.
    pub top5: Option<f64>,
    /// Top-5, test; there is no test server to compare with.
    pub test_top5: Option<f64>,
}

/// One row of a table.
#[derive(Debug, Clone)]
pub struct PaperRow {
    /// As the paper calls it.
    pub name: String,
    /// Whose posteriors are averaged; empty for other people's systems.
    pub nets: Vec<PaperNet>,
    /// How they look.
    pub protocol: Protocol,
    /// At how many scales.
    pub scales: TestScales,
    /// What was found.
    pub published: Published,
}

/// Tables that are reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaperTable {
    /// Single networks at one test scale.
    Table3,
    /// Single networks at three test scales.
    Table4,
    /// Dense, multi-crop and both.
    Table5,
    /// Fusion of networks.
    Table6,
    /// Comparison with other systems.
    Table7,
}

impl TrainedAt {
    /// Smallest and largest S of the paper.
    pub fn range(self) -> (usize, usize) {
        match self {
            Self::Low => (256, 256),
            Self::High => (384, 384),
            Self::Jittered => (256, 512),
        }
    }
}

impl TestScales {
    /// The test scales of a network that was trained at S of `range`: the paper's where that is the paper's range, and in
    /// proportion where it is another (the step of 32 belongs to S = 256 and 384); never below the crop.
    pub fn of(self, trained_at: TrainedAt, range: (usize, usize), crop: usize) -> Vec<usize> {
        let (min, max) = range;
        let middle = (min + max) / 2;
        let scales = match (self, trained_at) {
            (Self::One, _) => vec![middle],
            (Self::Three, TrainedAt::Jittered) => vec![min, middle, max],
            (Self::Three, TrainedAt::Low | TrainedAt::High) => {
                let paper = trained_at.range().0;
                let step = (32 * middle + paper / 2) / paper;
                vec![middle.saturating_sub(step), middle, middle + step]
            }
        };
        scales.into_iter().map(|scale| scale.max(crop)).collect()
    }
}

impl fmt::Display for PaperNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = self.trained_at.range();
        match self.trained_at {
            TrainedAt::Jittered => write!(f, "{}/{min}..{max}", self.config),
            TrainedAt::Low | TrainedAt::High => write!(f, "{}/{min}", self.config),
        }
    }
}

impl FromStr for PaperNet {
    type Err = Error;

    /// `D/256`, `D/384` or `D/256..512`; `D` is `D/256`.
    fn from_str(text: &str) -> Result<Self> {
        let (config, scale) = text.split_once('/').unwrap_or((text, "256"));
        let trained_at = match scale {
            "256" => TrainedAt::Low,
            "384" => TrainedAt::High,
            "256..512" => TrainedAt::Jittered,
            _ => {
                let expected = "CONFIG/256, CONFIG/384 or CONFIG/256..512, as the paper trains its networks";
                return Err(Error::invalid(
                    "--weights NAME=FILE",
                    expected,
                    format_args!("'{text}'"),
                ));
            }
        };
        Ok(Self {
            config: config.parse()?,
            trained_at,
        })
    }
}

impl PaperTable {
    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table3 => "table3",
            Self::Table4 => "table4",
            Self::Table5 => "table5",
            Self::Table6 => "table6",
            Self::Table7 => "table7",
        }
    }

    /// Its rows, in the paper's order.
    pub fn rows(self) -> Vec<PaperRow> {
        match self {
            Self::Table3 => single(TestScales::One, &SINGLE_SCALE),
            Self::Table4 => single(TestScales::Three, &MULTI_SCALE),
            Self::Table5 => TABLE5.iter().map(|row| fused(&[row.0], row.1, row.2)).collect(),
            Self::Table6 => table6(),
            Self::Table7 => table7(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TrainedAt::{High, Jittered, Low};
    use super::*;

    #[test]
    fn every_row_of_the_paper_is_there() {
        let rows = |table: PaperTable| table.rows().len();
        assert_eq!(
            [PaperTable::Table3, PaperTable::Table4, PaperTable::Table5].map(rows),
            [12, 10, 6]
        );
        assert_eq!([PaperTable::Table6, PaperTable::Table7].map(rows), [4, 15]);
        let d = &PaperTable::Table3.rows()[8];
        assert_eq!(
            (d.name.as_str(), d.published.top1),
            ("D/256..512, dense", Some(25.6))
        );
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for row in PaperTable::Table6.rows() {
            for net in row.nets {
                assert_eq!(net.to_string().parse::<PaperNet>().unwrap(), net);
            }
        }
        assert_eq!("a-lrn".parse::<PaperNet>().unwrap().to_string(), "A-LRN/256");
        assert!("D/300".parse::<PaperNet>().is_err() && "F".parse::<PaperNet>().is_err());
    }

    #[test]
    fn test_scales_are_the_papers_or_in_proportion() {
        assert_eq!(TestScales::Three.of(Low, (256, 256), 224), [224, 256, 288]);
        assert_eq!(TestScales::Three.of(High, (384, 384), 224), [352, 384, 416]);
        assert_eq!(TestScales::Three.of(Jittered, (256, 512), 224), [256, 384, 512]);
        assert_eq!(TestScales::One.of(Jittered, (256, 512), 224), [384]);
        assert_eq!(TestScales::Three.of(Low, (72, 72), 64), [64, 72, 81]);
    }
}
