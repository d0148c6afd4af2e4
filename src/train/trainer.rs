//! The training loop.
//!
//! State changes only in [`Training::update`] and at validations; everything else can be abandoned at any time, which
//! is what a signal does: the step under way is dropped and the state of the last finished one is saved.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::event::{Event, Fold, Observer};
use super::log::RunLog;
use super::recipe::Recipe;
use super::schedule::{Moment, PlateauState, Schedule};
use super::start::Start;
use super::stop::Stop;
use super::stuck::StuckDetector;
use crate::backend::Backend;
use crate::data::loader::{self, BadEvent, Loader, Mode, OnBad, Positions};
use crate::data::order::Order;
use crate::data::preprocess::Preprocess;
use crate::data::shards::Dataset;
use crate::error::{Error, Result};
use crate::eval::{Tally, tally};
use crate::exec::{BitFlip, FoldOf, Training, Watch, load};
use crate::network::Network;
use crate::plan::{Batch, StepParams, WalkOrder};
use crate::weights::{CheckpointMeta, CheckpointView, RunFolder, StateHasher, durable, write_checkpoint};

/// Checkpoints that are kept: the newest, and one to fall back on.
const KEPT_CHECKPOINTS: usize = 2;

/// Micro-batches between the workers and the network: one in use, one ready, one being filled.
pub const LOADER_SLOTS: usize = 3;

/// How far a run is, besides weights and momentum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Finished steps.
    pub step: u64,
    /// State of the schedule.
    pub schedule: ScheduleState,
}

/// What the schedule remembers. Integers only, so that its hash is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// What the plateau rule has seen.
    #[serde(flatten)]
    pub plateau: PlateauState,
    /// The step of the last validation that was due; a run stopped during one does it again.
    pub validated_at: u64,
}

/// Everything that a run needs besides a back end.
pub struct Job {
    /// What to do.
    pub recipe: Recipe,
    /// Where to write.
    pub run: RunFolder,
    /// The network.
    pub network: Network,
    /// From pixels to its input.
    pub preprocess: Preprocess,
    /// Training images.
    pub training: Arc<Dataset>,
    /// Validation images; `None` or empty where there are none.
    pub validation: Option<Arc<Dataset>>,
    /// The equivalence class.
    pub class: Value,
    /// Where it starts from.
    pub start: Start,
    /// Whether to stop.
    pub stop: Stop,
    /// In which order the micro-batches of a step are walked. Changes no bit.
    pub walk: WalkOrder,
    /// A fault to plant, for tests.
    pub flip: Option<BitFlip>,
}

/// How a run ended: the `end` event, and the error where there was one.
#[derive(Debug)]
pub struct Ended {
    /// The last line of the log.
    pub event: Event,
    /// Why, if not by reaching its last step.
    pub error: Option<Error>,
}

/// Trains until the last step, a signal or an error; always leaves a checkpoint of the last finished step, unless that
/// cannot be written. An `Err` means that the run could not even start.
pub fn train<B: Backend>(backend: &B, job: Job, observer: &mut dyn Observer) -> Result<Ended> {
    let mut trainer = Trainer::new(backend, job, observer)?;
    let outcome = trainer.run();
    trainer.end(outcome)
}

struct Trainer<'a, B: Backend> {
    backend: &'a B,
    recipe: Recipe,
    run: RunFolder,
    network: Network,
    preprocess: Preprocess,
    training: Arc<Dataset>,
    validation: Option<Arc<Dataset>>,
    class: Value,
    stop: Stop,
    state: Training<'a, B>,
    progress: Progress,
    total_steps: u64,
    log: RunLog,
    observer: &'a mut dyn Observer,
    /// The step whose checkpoint is on disk.
    saved: Option<u64>,
    /// The last validation, and the step it was done at.
    validated: Option<(u64, Tally)>,
    stuck: StuckDetector,
    trained_images: u64,
    trained_seconds: f64,
}

/// What interrupts the loop without being an error.
enum Interrupted {
    /// By this signal.
    Signal(&'static str),
    /// By an error.
    Error(Error),
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Step<T> = std::result::Result<T, Interrupted>;

impl<'a, B: Backend> Trainer<'a, B> {
    fn new(backend: &'a B, job: Job, observer: &'a mut dyn Observer) -> Result<Self> {
        let Job {
            recipe,
            run,
            network,
            preprocess,
            training,
            validation,
            class,
            start,
            stop,
            walk,
            flip,
        } = job;
        let validation = validation.filter(|data| !data.is_empty());
        if validation.is_none() && recipe.schedule == Schedule::Plateau {
            return Err(Error::invalid_hint(
                "--schedule plateau",
                "a validation split to watch",
                "a data set without validation images",
                "use --schedule cosine or step:E,F, or pack images under val/",
            ));
        }
        let mut state = Training::new(backend, &network, &preprocess, recipe.update_rule(), walk)?;
        state.set_state(&start.weights, &start.momentum)?;
        if let Some(flip) = flip {
            state.plant(flip);
        }
        let total_steps = recipe.total_steps(training.len() as u64);
        let log = RunLog::resume(&run.log(), start.progress.step)?;
        let saved = start.class.is_some().then_some(start.progress.step);
        let mut trainer = Self {
            backend,
            stuck: StuckDetector::new(network.classes, recipe.stop_if_stuck),
            recipe,
            run,
            network,
            preprocess,
            training,
            validation,
            class,
            stop,
            state,
            progress: start.progress,
            total_steps,
            log,
            observer,
            saved,
            validated: None,
            trained_images: 0,
            trained_seconds: 0.0,
        };
        trainer.emit(&Event::Start {
            recipe: json!(trainer.recipe),
            class: trainer.class.clone(),
            step: trainer.progress.step,
            total_steps,
            samples: trainer.training.len() as u64,
            passed_over: start.passed_over,
            version: env!("CARGO_PKG_VERSION").into(),
        })?;
        Ok(trainer)
    }

    fn emit(&mut self, event: &Event) -> Result<()> {
        self.log.append(event)?;
        self.observer.event(event);
        Ok(())
    }

    fn run(&mut self) -> Step<()> {
        let mut loader = self.training_loader()?;
        loop {
            let step = self.progress.step;
            if self.is_due(self.recipe.validate_every) && self.progress.schedule.validated_at < step {
                let tally = self.validate()?;
                self.progress.schedule.validated_at = step;
                let rule = self.recipe.plateau_rule();
                if self.recipe.schedule == Schedule::Plateau
                    && self.progress.schedule.plateau.validated(tally.correct1, rule)
                {
                    let drops = self.progress.schedule.plateau.drops;
                    let message = format!(
                        "validation error stopped improving: learning rate divided by 10 (drop {drops})"
                    );
                    self.emit(&Event::Warning { step, message })?;
                }
            }
            if step >= self.total_steps {
                return Ok(());
            }
            if self.is_due(self.recipe.checkpoint_every) {
                self.checkpoint()?;
            }
            self.check_stop()?;
            self.step(&mut loader)?;
        }
    }

    /// The images of the rest of the run.
    fn training_loader(&self) -> Result<Loader<B::HostMemory>> {
        let (recipe, batch) = (&self.recipe, self.recipe.batch as u64);
        let positions = Positions::from(self.progress.step * batch, recipe.micro_batch)?;
        let config = loader::Config {
            threads: recipe.threads,
            slots: LOADER_SLOTS,
            positions: positions.until(self.total_steps * batch),
            views: recipe.training_views(self.training.manifest())?,
            mode: Mode::Train {
                order: Order::new(recipe.seed, self.training.len())?,
                on_bad: recipe.on_bad,
            },
        };
        load(self.backend, self.training.clone(), config)
    }

    /// Whether something that happens every `interval` steps, or once an epoch, is due at the present step.
    fn is_due(&self, interval: Option<u64>) -> bool {
        let step = self.progress.step;
        match interval {
            _ if step == 0 => false,
            Some(interval) => step.is_multiple_of(interval),
            None => self.moment(step).epoch() > self.moment(step - 1).epoch(),
        }
    }

    fn moment(&self, step: u64) -> Moment {
        Moment {
            step,
            total_steps: self.total_steps,
            batch: self.recipe.batch as u64,
            samples: self.training.len() as u64,
        }
    }

    fn check_stop(&self) -> Step<()> {
        self.stop
            .asked()
            .map_or(Ok(()), |signal| Err(Interrupted::Signal(signal)))
    }

    /// One optimisation step: M leaves, their sum in tree order, one update.
    fn step(&mut self, loader: &mut Loader<B::HostMemory>) -> Step<()> {
        let started = Instant::now();
        let (step, batch) = (self.progress.step, self.recipe.batch as u64);
        let rate =
            self.recipe
                .schedule
                .rate(self.recipe.lr, self.moment(step), self.progress.schedule.plateau);
        let mut params = StepParams {
            seed: self.recipe.seed,
            step,
            position: step * batch,
            learning_rate: rate,
        };
        let mut folds = Folds {
            wanted: self.recipe.folds,
            folds: Vec::new(),
        };
        let mut stall = 0.0;
        for micro_batch in 0..self.recipe.micro_batches() {
            self.check_stop()?;
            let waited = Instant::now();
            let slot = loader
                .next_slot()?
                .ok_or_else(|| Error::invalid("the training stream", "another micro-batch", "its end"))?;
            stall += waited.elapsed().as_secs_f64();
            let batch = Batch {
                pixels: slot.pixels.as_ref(),
                flips: &slot.flips,
                colours: &slot.colours,
                labels: &slot.labels,
            };
            self.state.micro_batch(micro_batch, batch, &params, &mut folds)?;
            for event in &slot.bad {
                self.report_bad(step + 1, event)?;
            }
            params.position += self.recipe.micro_batch as u64;
        }
        let mut loss_sum = 0.0;
        for _ in 0..self.recipe.micro_batches() {
            loss_sum += self.state.outcomes()?.loss_sum();
        }
        let loss = loss_sum / batch as f64;
        if !loss.is_finite() {
            return Err(Error::NonFinite {
                step: step + 1,
                what: "the loss".into(),
            }
            .into());
        }
        self.state.update(&params)?;
        self.progress.step += 1;

        let seconds = started.elapsed().as_secs_f64();
        self.trained_images += batch;
        self.trained_seconds += seconds;
        self.emit(&Event::Step {
            step: step + 1,
            epoch: self.epochs(),
            loss,
            lr: rate,
            images_per_sec: batch as f64 / seconds,
            data_stall: stall,
        })?;
        if self.recipe.folds {
            self.emit(&Event::Folds {
                step: step + 1,
                folds: folds.folds,
            })?;
        }
        self.watch_loss(loss)
    }

    /// Warns, and ends the run where that was asked for, when the loss does not leave ln(classes).
    fn watch_loss(&mut self, loss: f64) -> Step<()> {
        self.stuck.loss(loss);
        let step = self.progress.step;
        if self.moment(step).epoch() == self.moment(step - 1).epoch() {
            return Ok(());
        }
        if let Some(message) = self.stuck.epoch_ended(step)? {
            self.emit(&Event::Warning { step, message })?;
        }
        Ok(())
    }

    /// Scores the validation split with the present weights.
    fn validate(&mut self) -> Step<Tally> {
        let Some(data) = &self.validation else {
            return Ok(Tally::default());
        };
        let started = Instant::now();
        let config = loader::Config {
            threads: self.recipe.threads,
            slots: LOADER_SLOTS,
            positions: Positions::from(0, self.recipe.micro_batch)?.until(data.len() as u64),
            views: self.recipe.test_views()?,
            mode: Mode::Evaluate { on_bad: OnBad::Skip },
        };
        let mut loader = load(self.backend, data.clone(), config)?;
        let mut signal = None;
        let tally = tally(&mut loader, &mut self.state.validation(), || {
            signal = self.stop.asked();
            signal.is_none()
        })?;
        if let Some(signal) = signal {
            return Err(Interrupted::Signal(signal));
        }
        for bad in &tally.bad {
            self.emit(&Event::BadSample {
                step: None,
                sample: bad.sample.clone(),
                action: bad.action,
            })?;
        }
        let step = self.progress.step;
        self.emit(&Event::Validation {
            step,
            top1_error: tally.top1_error(),
            top5_error: tally.top5_error(),
            top1: 100.0 - tally.top1_error(),
            top5: 100.0 - tally.top5_error(),
            loss: tally.mean_loss(),
            n: tally.n,
            weights_sha256: self.hashes()?.0,
            seconds: started.elapsed().as_secs_f64(),
        })?;
        self.validated = Some((step, tally.clone()));
        Ok(tally)
    }

    fn report_bad(&mut self, step: u64, event: &BadEvent) -> Result<()> {
        self.emit(&Event::BadSample {
            step: Some(step),
            sample: event.sample.clone(),
            action: event.action,
        })
    }

    fn epochs(&self) -> f64 {
        self.progress.step as f64 * self.recipe.batch as f64 / self.training.len() as f64
    }

    /// `weights_sha256` and `state_sha256` of the present state.
    fn hashes(&self) -> Result<(String, String)> {
        let mut hasher = StateHasher::new();
        let longest = self.network.parameters.iter().map(|p| p.len()).max().unwrap_or(0);
        let mut values = vec![0.0; longest];
        for parameter in &self.network.parameters {
            let values = &mut values[..parameter.len()];
            self.state.weights(parameter, values)?;
            hasher.array(values);
        }
        let weights = hasher.weights();
        for parameter in &self.network.parameters {
            let values = &mut values[..parameter.len()];
            self.state.momentum(parameter, values)?;
            hasher.array(values);
        }
        Ok((
            weights,
            hasher.state(self.progress.step, &json!(self.progress.schedule)),
        ))
    }

    /// Saves the present state, unless it is saved already, and forgets all but the newest checkpoints.
    fn checkpoint(&mut self) -> Result<()> {
        let step = self.progress.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        let started = Instant::now();
        let (weights_sha256, state_sha256) = self.hashes()?;
        let meta = CheckpointMeta {
            spec: self.recipe.spec(self.network.classes),
            class_names: self.training.manifest().classes.clone(),
            preprocess: self.preprocess.clone(),
            scale: self.recipe.scale.middle(),
            step,
            epoch: self.epochs(),
            schedule: json!(self.progress.schedule),
            recipe: json!(self.recipe),
            class: self.class.clone(),
            weights_sha256: weights_sha256.clone(),
            state_sha256: state_sha256.clone(),
        };
        let path = self.run.checkpoint(step);
        let folder = self.run.checkpoints();
        std::fs::create_dir_all(&folder).map_err(|source| Error::Checkpoint {
            path: path.clone(),
            source,
        })?;
        write_checkpoint(&path, &meta, &self.network.parameters, &self.state)?;
        self.saved = Some(step);
        let file = path
            .strip_prefix(self.run.root())
            .unwrap_or(&path)
            .display()
            .to_string();
        let seconds = started.elapsed().as_secs_f64();
        self.emit(&Event::Checkpoint {
            step,
            file,
            weights_sha256,
            state_sha256,
            seconds,
        })?;
        for (_, old) in self.run.list_checkpoints()?.into_iter().skip(KEPT_CHECKPOINTS) {
            std::fs::remove_file(&old).map_err(Error::io("remove", &old))?;
        }
        durable::remove_orphans(&folder).map_err(Error::io("clean", &folder))
    }

    /// Saves what there is, says how it ended.
    fn end(mut self, outcome: Step<()>) -> Result<Ended> {
        let error = match outcome {
            Ok(()) => self.finish().err(),
            Err(Interrupted::Error(error)) => {
                // The error of the loop is the one to report, even if the state cannot be saved either.
                self.checkpoint().err();
                Some(error)
            }
            Err(Interrupted::Signal(signal)) => Some(match self.checkpoint() {
                Ok(()) => Error::Stopped {
                    signal,
                    step: self.progress.step,
                    run: self.run.root().into(),
                },
                Err(error) => error,
            }),
        };
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
        Ok(Ended { event, error })
    }

    /// The last checkpoint, and a validation of the final weights where the last one is older. That validation is for
    /// people: the schedule does not see it, so a longer run takes the same steps.
    fn finish(&mut self) -> Result<()> {
        self.checkpoint()?;
        let step = self.progress.step;
        if self.validation.is_none() || self.validated.as_ref().is_some_and(|(at, _)| *at == step) {
            return Ok(());
        }
        match self.validate() {
            Ok(_) | Err(Interrupted::Signal(_)) => Ok(()),
            Err(Interrupted::Error(error)) => Err(error),
        }
    }
}

/// Collects the folds of one step.
struct Folds {
    wanted: bool,
    folds: Vec<Fold>,
}

impl Watch for Folds {
    fn wants_folds(&self) -> bool {
        self.wanted
    }

    fn fold(&mut self, micro_batch: usize, layer: &str, pass: FoldOf, fold: u64) {
        self.folds.push(Fold {
            micro_batch,
            layer: layer.into(),
            pass,
            fold: format!("{fold:016x}"),
        });
    }
}
