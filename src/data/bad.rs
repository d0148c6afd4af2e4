//! How many unusable samples are too many.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{BadSample, Error, Result};

/// The most samples that may be unusable: a number of them, or a share of all. Written `25` or `0.1%`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MaxBad {
    /// So many.
    Count(u64),
    /// So many percent.
    Percent(f64),
}

impl MaxBad {
    /// Refuses more than that: `bad` of `samples`, `first` among them.
    pub fn check(self, bad: u64, samples: u64, first: &BadSample) -> Result<()> {
        let within = match self {
            Self::Count(most) => bad <= most,
            Self::Percent(most) => 100.0 * bad as f64 <= most * samples as f64,
        };
        if within {
            return Ok(());
        }
        Err(Error::BadData {
            bad,
            samples,
            first: Box::new(first.clone()),
        })
    }
}

impl FromStr for MaxBad {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent
                .parse()
                .ok()
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        parsed.ok_or_else(|| {
            Error::invalid(
                "--max-bad",
                "a number of samples such as 25, or a share of them such as 0.1%",
                format_args!("'{text}'"),
            )
        })
    }
}

impl fmt::Display for MaxBad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(most) => write!(f, "{most}"),
            Self::Percent(most) => write!(f, "{most}%"),
        }
    }
}

impl TryFrom<String> for MaxBad {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MaxBad> for String {
    fn from(most: MaxBad) -> Self {
        most.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_written() {
        for text in ["0", "25", "0%", "0.1%", "100%"] {
            assert_eq!(text.parse::<MaxBad>().expect("a limit").to_string(), text);
        }
        for text in ["", "-1", "1.5", "%", "-1%", "101%", "NaN%", "few"] {
            let error = text.parse::<MaxBad>().expect_err(text).to_string();
            assert!(error.starts_with("--max-bad: expected"), "{error}");
        }
    }

    #[test]
    fn a_limit_is_reached_but_not_passed() {
        let first = BadSample {
            shard: "x.tar".into(),
            offset: 512,
            key: "k".into(),
            reason: "green".into(),
        };
        for (limit, bad, samples, within) in [
            ("0", 0, 1000, true),
            ("0", 1, 1000, false),
            ("3", 3, 4, true),
            ("3", 4, 4, false),
            ("0.1%", 1, 1000, true),
            ("0.1%", 2, 1000, false),
            ("0.1%", 1, 999, false),
            ("0%", 0, 0, true),
        ] {
            let outcome = limit
                .parse::<MaxBad>()
                .expect("a limit")
                .check(bad, samples, &first);
            assert_eq!(outcome.is_ok(), within, "{limit}: {bad} of {samples}");
            if let Err(error) = outcome {
                assert_eq!(error.exit_code(), 7);
            }
        }
    }
}
