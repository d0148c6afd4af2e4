//! Learning-rate schedules.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate changes over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// Divided by 10 when the validation error stops improving: the paper's rule.
    Plateau,
    /// Multiplied by `factor` every `epochs` epochs.
    Step {
        /// Epochs between two changes.
        epochs: u64,
        /// The factor.
        factor: f64,
    },
    /// Half a cosine from the initial rate to 0 over the whole run (Loshchilov and Hutter 2017, without restarts).
    Cosine,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plateau => f.write_str("plateau"),
            Self::Step { epochs, factor } => write!(f, "step:{epochs},{factor}"),
            Self::Cosine => f.write_str("cosine"),
        }
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let step = |text: &str| {
            let (epochs, factor) = text.split_once(',')?;
            let (epochs, factor) = (epochs.trim().parse().ok()?, factor.trim().parse().ok()?);
            (epochs > 0 && factor > 0.0 && f64::is_finite(factor)).then_some(Self::Step { epochs, factor })
        };
        match text {
            "plateau" => Some(Self::Plateau),
            "cosine" => Some(Self::Cosine),
            _ => text.strip_prefix("step:").and_then(step),
        }
        .ok_or_else(|| {
            let expected = "plateau, cosine or step:E,F (every E epochs multiply by F, e.g. step:30,0.1)";
            Error::invalid("--schedule", expected, format_args!("'{text}'"))
        })
    }
}

/// What the plateau rule has seen. Integers only: part of `state_sha256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlateauState {
    /// Most images classified correctly in a validation so far.
    pub best_correct: u64,
    /// Validations since then (or since the last drop).
    pub stale: u64,
    /// Times the rate was divided by 10.
    pub drops: u64,
}

/// The plateau rule's two numbers. The paper gives the number of drops (3), not the test for "stopped improving".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlateauRule {
    /// Validations without improvement before a drop.
    pub patience: u64,
    /// Most drops.
    pub drops: u64,
}

impl PlateauState {
    /// Takes in a validation; says whether it lowers the rate.
    pub fn validated(&mut self, correct: u64, rule: PlateauRule) -> bool {
        if correct > self.best_correct {
            self.best_correct = correct;
            self.stale = 0;
            return false;
        }
        self.stale += 1;
        if self.stale < rule.patience || self.drops >= rule.drops {
            return false;
        }
        self.stale = 0;
        self.drops += 1;
        true
    }
}

/// Where in a run a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The step about to be taken, counted from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Global batch size.
    pub batch: u64,
    /// Training samples.
    pub samples: u64,
}

impl Moment {
    /// Whole epochs finished before the step.
    pub fn epoch(self) -> u64 {
        (u128::from(self.step) * u128::from(self.batch) / u128::from(self.samples)) as u64
    }
}

impl Schedule {
    /// The learning rate of a step that starts from rate `initial`. Computed in f64, without the host's libm.
    pub fn rate(self, initial: f64, moment: Moment, plateau: PlateauState) -> f32 {
        let rate = match self {
            Self::Plateau => initial / power(10.0, plateau.drops),
            Self::Step { epochs, factor } => initial * power(factor, moment.epoch() / epochs),
            Self::Cosine => {
                let done = moment.step as f64 / moment.total_steps as f64;
                initial * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done))
            }
        };
        rate as f32
    }
}

/// `base^exponent` by repeated multiplication: the same bits everywhere. Exponents are small.
fn power(base: f64, exponent: u64) -> f64 {
    (0..exponent).fold(1.0, |product, _| product * base)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PlateauRule = PlateauRule {
        patience: 2,
        drops: 3,
    };

    fn moment(step: u64) -> Moment {
        Moment {
            step,
            total_steps: 100,
            batch: 10,
            samples: 95,
        }
    }

    #[test]
    fn text_round_trips() {
        for text in ["plateau", "cosine", "step:30,0.1"] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "step",
            "step:0,0.1",
            "step:3",
            "step:3,-1",
            "step:3,inf",
            "linear",
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap_err().exit_code(), 3, "{text}");
        }
    }

    #[test]
    fn a_plateau_drops_after_its_patience_and_at_most_three_times() {
        let mut state = PlateauState::default();
        let drops: Vec<bool> = [5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7]
            .iter()
            .map(|&c| state.validated(c, RULE))
            .collect();
        let expected = [
            false, false, false, true, false, true, false, false, true, false, false,
        ];
        assert_eq!(drops, expected);
        assert_eq!(state.drops, 3);
        let rate = Schedule::Plateau.rate(0.01, moment(0), state);
        assert_eq!(rate, (0.01_f64 / 1000.0) as f32);
    }

    #[test]
    fn steps_follow_the_position_in_the_stream() {
        let schedule: Schedule = "step:1,0.5".parse().unwrap();
        let rate = |step| schedule.rate(1.0, moment(step), PlateauState::default());
        assert_eq!((rate(0), rate(9), rate(10), rate(19)), (1.0, 1.0, 0.5, 0.25));
    }

    #[test]
    fn a_cosine_starts_at_the_rate_and_falls() {
        let rate = |step| Schedule::Cosine.rate(0.1, moment(step), PlateauState::default());
        assert_eq!(rate(0), 0.1);
        assert!((rate(50) - 0.05).abs() < 1e-8);
        assert!((0..99).all(|s| rate(s) > rate(s + 1)));
    }
}
