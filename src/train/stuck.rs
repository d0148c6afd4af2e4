//! Networks that do not start to learn: the loss stays at ln(classes), the value of a uniform guess.

use crate::error::{Error, Result};

/// A mean loss within this part of ln(classes) counts as stuck.
const TOLERANCE: f64 = 0.01;

/// Watches the mean loss of every epoch.
#[derive(Debug, Clone)]
pub(super) struct StuckDetector {
    chance: f64,
    stop_after: Option<u64>,
    sum: f64,
    steps: u64,
    epochs: u64,
}

impl StuckDetector {
    /// For `classes` classes; stops after `stop_after` epochs, if at all.
    pub(super) fn new(classes: usize, stop_after: Option<u64>) -> Self {
        Self {
            chance: libm::log(classes as f64),
            stop_after,
            sum: 0.0,
            steps: 0,
            epochs: 0,
        }
    }

    /// The loss of one step.
    pub(super) fn loss(&mut self, loss: f64) {
        self.sum += loss;
        self.steps += 1;
    }

    /// At the end of an epoch: a warning when the network is stuck, an error once it has been for too long.
    pub(super) fn epoch_ended(&mut self, step: u64) -> Result<Option<String>> {
        let mean = self.sum / self.steps as f64;
        (self.sum, self.steps) = (0.0, 0);
        let is_stuck = (mean - self.chance).abs() < TOLERANCE * self.chance;
        self.epochs = if is_stuck { self.epochs + 1 } else { 0 };
        if self.stop_after.is_some_and(|limit| self.epochs >= limit) {
            return Err(Error::Stuck {
                step,
                chance: self.chance,
                epochs: self.epochs,
            });
        }
        let warning = format!(
            "mean loss {mean:.4} of the last epoch is ln(classes) = {:.4}: the network guesses; \
             try --init he, --batch-norm or another --lr",
            self.chance
        );
        Ok(is_stuck.then_some(warning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(detector: &mut StuckDetector, loss: f64) -> Result<Option<String>> {
        (0..3).for_each(|_| detector.loss(loss));
        detector.epoch_ended(3)
    }

    #[test]
    fn a_uniform_guess_is_noticed_and_learning_resets_the_count() {
        let mut detector = StuckDetector::new(1000, Some(2));
        assert!(epoch(&mut detector, 6.91).unwrap().is_some());
        assert!(epoch(&mut detector, 6.5).unwrap().is_none());
        assert!(epoch(&mut detector, 6.90).unwrap().is_some());
        assert_eq!(epoch(&mut detector, 6.91).unwrap_err().exit_code(), 6);
    }
}
