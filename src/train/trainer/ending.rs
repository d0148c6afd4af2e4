//! Checkpoints, and how a run ends.

use std::time::Instant;

use serde_json::json;

use super::{Interrupted, Step, Trainer};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::eval::Tally;
use crate::network::Parameter;
use crate::parallel::{Group, all_well};
use crate::train::event::Event;
use crate::train::job::Ended;
use crate::weights::{CheckpointMeta, CheckpointView, StateHasher};

impl<B: Backend, G: Group<B>> Trainer<'_, B, G> {
    /// `weights_sha256` of the present weights.
    pub(super) fn weights_hash(&self) -> Result<String> {
        let mut hasher = StateHasher::new();
        let state = self.state.parameters().view(self.backend);
        self.hash_arrays(&mut hasher, |parameter, values| state.weights(parameter, values))?;
        Ok(hasher.weights())
    }

    /// `weights_sha256` and `state_sha256` of the present state.
    fn hashes(&self) -> Result<(String, String)> {
        let mut hasher = StateHasher::new();
        let state = self.state.parameters().view(self.backend);
        self.hash_arrays(&mut hasher, |parameter, values| state.weights(parameter, values))?;
        let weights = hasher.weights();
        self.hash_arrays(&mut hasher, |parameter, values| state.momentum(parameter, values))?;
        let schedule = json!(self.progress.schedule);
        Ok((weights, hasher.state(self.progress.step, &schedule)))
    }

    /// Every array of the network, in its order, as `read` gives it.
    fn hash_arrays(
        &self,
        hasher: &mut StateHasher,
        read: impl Fn(&Parameter, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let parameters = &self.job.network.parameters;
        let longest = parameters.iter().map(Parameter::len).max().unwrap_or(0);
        let mut values = vec![0.0; longest];
        for parameter in parameters {
            let values = &mut values[..parameter.len()];
            read(parameter, values)?;
            hasher.array(values);
        }
        Ok(())
    }

    /// Saves the present state, unless it is saved already, and forgets all but the newest checkpoints.
    pub(super) fn checkpoint(&mut self) -> Step<()> {
        if self.saved == Some(self.progress.step) {
            return Ok(());
        }
        self.check_state()?;
        // Whoever fails at this alone tells nobody: the others wait for it in another place.
        self.group.complete_state(&mut self.state)?;
        self.state_is_written()?;
        let own = self.save();
        all_well(&mut self.group, own).map_err(Interrupted::Agreed)?;
        self.saved = Some(self.progress.step);
        Ok(())
    }

    /// Writes the checkpoint, where that is this replica's business.
    fn save(&mut self) -> Result<()> {
        let started = Instant::now();
        let meta = match self.journal {
            Some(_) => self.checkpoint_meta()?,
            None => return Ok(()),
        };
        let state = self.state.parameters().view(self.backend);
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        let step = meta.step;
        let file = journal.save(&meta, &self.job.network.parameters, &state)?;
        journal.emit(&Event::Checkpoint {
            step,
            file,
            weights_sha256: meta.weights_sha256,
            state_sha256: meta.state_sha256,
            seconds: started.elapsed().as_secs_f64(),
        })?;
        journal.tidy(step)
    }

    /// What the present state's checkpoint says besides the arrays.
    fn checkpoint_meta(&self) -> Result<CheckpointMeta> {
        let (weights_sha256, state_sha256) = self.hashes()?;
        Ok(CheckpointMeta {
            spec: self.job.recipe.spec(self.job.network.classes),
            class_names: self.job.training.manifest().classes.clone(),
            preprocess: self.job.preprocess.clone(),
            scale: self.job.recipe.scale.middle(),
            step: self.progress.step,
            epoch: self.epochs(),
            schedule: json!(self.progress.schedule),
            recipe: json!(self.job.recipe),
            class: self.job.class.clone(),
            weights_sha256,
            state_sha256,
        })
    }

    /// Saves what there is, says how it ended. Nothing to say but for the first replica.
    pub(in crate::train) fn end(mut self, outcome: Step<()>) -> Result<Ended> {
        let mut error = match outcome.and_then(|()| self.finish()) {
            Ok(()) => None,
            Err(why) => Some(self.interrupted(why)),
        };
        if matches!(error, None | Some(Error::Stopped { .. }))
            && let Err(why) = self.group.leave()
        {
            self.group.last_words(&why);
            error = Some(why);
        }
        if self.journal.is_none() {
            return Ok(Ended { event: None, error });
        }
        let reason = match &error {
            None => "finished".into(),
            Some(Error::Stopped { signal, .. }) => (*signal).into(),
            Some(error) => error.to_string(),
        };
        // What is not whole, or not right, has no hash that anybody could compare.
        let is_whole = self.group.holds_whole_state() || self.saved == Some(self.progress.step);
        let is_whole = is_whole && !matches!(error, Some(Error::Corrupted(_)));
        let hashes = is_whole.then(|| self.hashes().ok()).flatten();
        let (weights_sha256, state_sha256) = hashes.unwrap_or_default();
        let accuracy =
            |error: fn(&Tally) -> f64| self.validated.as_ref().map(|(_, tally)| 100.0 - error(tally));
        let mut event = Event::End {
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
        if let Err(why) = self.emit(&event) {
            if error.is_none()
                && let Event::End { reason, exit, .. } = &mut event
            {
                (*reason, *exit) = (why.to_string(), why.exit_code());
            }
            error.get_or_insert(why);
        }
        let event = Some(event);
        Ok(Ended { event, error })
    }

    /// Saves the last finished step, where that can be done, and says what there is to report.
    fn interrupted(&mut self, why: Interrupted) -> Error {
        match why {
            Interrupted::Signal(signal) => match self.checkpoint() {
                Ok(()) | Err(Interrupted::Signal(_)) => Error::Stopped {
                    signal: signal.name(),
                    step: self.progress.step,
                    run: self.job.run.root().into(),
                },
                Err(Interrupted::Agreed(error)) => error,
                Err(Interrupted::Own(error)) => self.alone_with(error),
            },
            // Nobody knows what state is right; the last checkpoint was.
            Interrupted::Agreed(error @ Error::Corrupted(_)) => error,
            // The error of the loop is the one to report, even if the state cannot be saved either.
            Interrupted::Agreed(error) => {
                if let Err(Interrupted::Own(why)) = self.checkpoint() {
                    self.alone_with(why);
                }
                error
            }
            Interrupted::Own(error) => {
                if self.group.place().replicas == 1 {
                    self.checkpoint().err();
                }
                self.alone_with(error)
            }
        }
    }

    /// An error that the others hear of when they find this replica gone.
    fn alone_with(&mut self, error: Error) -> Error {
        self.group.last_words(&error);
        error
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
