//! Checkpoints, and how a run ends.

use std::time::Instant;

use serde_json::json;

use super::{Interrupted, Step, Trainer};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::eval::Tally;
use crate::parallel::{Group, all_well};
use crate::train::event::Event;
use crate::train::job::Ended;
use crate::train::journal::Journal;
use crate::weights::{CheckpointMeta, CheckpointView, StateHasher};

impl<B: Backend, G: Group<B>> Trainer<'_, B, G> {
    /// `weights_sha256` and `state_sha256` of the present state.
    pub(super) fn hashes(&self) -> Result<(String, String)> {
        let mut hasher = StateHasher::new();
        let parameters = &self.job.network.parameters;
        let longest = parameters.iter().map(|p| p.len()).max().unwrap_or(0);
        let mut values = vec![0.0; longest];
        let state = self.state.parameters().view(self.backend);
        for parameter in parameters {
            let values = &mut values[..parameter.len()];
            state.weights(parameter, values)?;
            hasher.array(values);
        }
        let weights = hasher.weights();
        for parameter in parameters {
            let values = &mut values[..parameter.len()];
            state.momentum(parameter, values)?;
            hasher.array(values);
        }
        Ok((
            weights,
            hasher.state(self.progress.step, &json!(self.progress.schedule)),
        ))
    }

    /// Saves the present state, unless it is saved already, and forgets all but the newest checkpoints.
    pub(super) fn checkpoint(&mut self) -> Step<()> {
        if self.saved == Some(self.progress.step) {
            return Ok(());
        }
        let own = self
            .group
            .complete_state(&mut self.state)
            .and_then(|()| self.save());
        all_well(&mut self.group, own).map_err(Interrupted::Agreed)?;
        self.saved = Some(self.progress.step);
        Ok(())
    }

    /// Writes the checkpoint, where that is this replica's business.
    fn save(&mut self) -> Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let started = Instant::now();
        let (weights_sha256, state_sha256) = self.hashes()?;
        let step = self.progress.step;
        let meta = CheckpointMeta {
            spec: self.job.recipe.spec(self.job.network.classes),
            class_names: self.job.training.manifest().classes.clone(),
            preprocess: self.job.preprocess.clone(),
            scale: self.job.recipe.scale.middle(),
            step,
            epoch: self.epochs(),
            schedule: json!(self.progress.schedule),
            recipe: json!(self.job.recipe),
            class: self.job.class.clone(),
            weights_sha256: weights_sha256.clone(),
            state_sha256: state_sha256.clone(),
        };
        let state = self.state.parameters().view(self.backend);
        let file = journal.save(&meta, &self.job.network.parameters, &state)?;
        drop(state);
        self.emit(&Event::Checkpoint {
            step,
            file,
            weights_sha256,
            state_sha256,
            seconds: started.elapsed().as_secs_f64(),
        })?;
        self.journal.as_ref().map_or(Ok(()), Journal::tidy)
    }

    /// Saves what there is, says how it ended. Nothing to say but for the first replica.
    pub(in crate::train) fn end(mut self, outcome: Step<()>) -> Result<Ended> {
        let error = match outcome.and_then(|()| self.finish()) {
            Ok(()) => None,
            Err(Interrupted::Signal(signal)) => match self.checkpoint() {
                Ok(()) | Err(Interrupted::Signal(_)) => Some(Error::Stopped {
                    signal: signal.name(),
                    step: self.progress.step,
                    run: self.job.run.root().into(),
                }),
                Err(Interrupted::Agreed(error) | Interrupted::Own(error)) => Some(error),
            },
            Err(Interrupted::Agreed(error)) => {
                // The error of the loop is the one to report, even if the state cannot be saved either.
                self.checkpoint().err();
                Some(error)
            }
            Err(Interrupted::Own(error)) => {
                self.group.last_words(&error);
                if self.group.place().replicas == 1 {
                    self.checkpoint().err();
                }
                Some(error)
            }
        };
        if matches!(error, None | Some(Error::Stopped { .. })) {
            self.group.leave()?;
        }
        if self.journal.is_none() {
            return Ok(Ended { event: None, error });
        }
        let reason = match &error {
            None => "finished".into(),
            Some(Error::Stopped { signal, .. }) => (*signal).into(),
            Some(error) => error.to_string(),
        };
        let (weights_sha256, state_sha256) = self.hashes()?;
        let accuracy =
            |error: fn(&Tally) -> f64| self.validated.as_ref().map(|(_, tally)| 100.0 - error(tally));
        let event = Event::End {
            step: self.progress.step,
            reason,
            weights_sha256,
            state_sha256,
            images_per_sec: if self.trained_images == 0 {
                0.0
            } else {
                self.trained_images as f64 / self.trained_seconds
            },
            exit: error.as_ref().map_or(0, Error::exit_code),
            top1: accuracy(Tally::top1_error),
            top5: accuracy(Tally::top5_error),
        };
        self.emit(&event)?;
        let event = Some(event);
        Ok(Ended { event, error })
    }

    /// The last checkpoint, and a validation of the final weights where the last one is older. That validation is for
    /// people: the schedule does not see it, so a longer run takes the same steps.
    fn finish(&mut self) -> Step<()> {
        self.checkpoint()?;
        let step = self.progress.step;
        let nothing_to_see = self.job.validation.as_ref().is_none_or(|data| data.is_empty());
        if nothing_to_see || self.validated.as_ref().is_some_and(|(at, _)| *at == step) {
            return Ok(());
        }
        match self.validate() {
            Ok(_) | Err(Interrupted::Signal(_)) => Ok(()),
            Err(why) => Err(why),
        }
    }
}
