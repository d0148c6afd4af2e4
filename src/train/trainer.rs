//! The training loop.
//!
//! State changes only in [`Group::update`] and at validations; everything else can be abandoned at any time, which
//! is what a signal does: the step under way is dropped and the state of the last finished one is saved. Replicas on
//! several devices finish it first, as what one has sent the others wait for.
//!
//! Every replica runs this loop. What differs between them, they tell one another ([`agree`]) before they act on it, so
//! all take the same way; only the first one has a [`Journal`].

mod audit;
mod ending;
mod prepared;

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit::{Findings, Leaf};
use super::bad::BadCount;
use super::event::{Event, Fold};
use super::job::{Job, Progress};
use super::journal::Journal;
use super::schedule::{Moment, Schedule};
use super::stop::Signal;
use super::stuck::StuckDetector;
use crate::backend::Backend;
use crate::data::loader::{self, BadEvent, Loader, Mode, OnBad, Positions};
use crate::data::order::Order;
use crate::data::shards::{Dataset, Split};
use crate::error::{Error, Result};
use crate::eval::{Tally, tally};
use crate::exec::{FoldOf, Training, Watch, load};
use crate::parallel::{Group, agree};
use crate::plan::{Batch, Bucket, StepParams};
use audit::Audit;
use prepared::Share;
pub(super) use prepared::{Prepared, prepare};

/// Micro-batches between the workers and the network: one in use, one ready, one being filled.
pub const LOADER_SLOTS: usize = 3;

/// One replica's part of a training run.
pub(super) struct Trainer<'a, B: Backend, G: Group<B>> {
    job: &'a Job,
    backend: &'a B,
    group: G,
    /// The micro-batches of a step that are this replica's.
    share: Share,
    state: Training<'a, B>,
    progress: Progress,
    total_steps: u64,
    journal: Option<Journal<'a>>,
    /// The step whose checkpoint is on disk.
    saved: Option<u64>,
    /// The last validation, and the step it was done at.
    validated: Option<(u64, Tally)>,
    stuck: StuckDetector,
    /// Where silent corruption is looked for.
    audit: Option<Audit>,
    bad: BadCount,
    trained_images: u64,
    trained_seconds: f64,
}

/// What a replica says of its part of a step.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    /// It was told to stop.
    signal: Option<Signal>,
    /// The bits of each micro-batch's sum of losses.
    losses: Vec<u64>,
    folds: Vec<Fold>,
    bad: Vec<BadEvent>,
    /// Seconds that it waited for images.
    stall: f64,
    findings: Option<Findings>,
}

/// What ends the loop before its last step.
pub(super) enum Interrupted {
    /// A signal, which all replicas have agreed to follow.
    Signal(Signal),
    /// An error that all replicas know of.
    Agreed(Error),
    /// An error of this replica's alone: the others learn of it when they wait for it.
    Own(Error),
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        match error {
            // Everybody finds the same, or somebody has said it.
            Error::NonFinite { .. } | Error::Stuck { .. } | Error::BadData { .. } | Error::Replica { .. } => {
                Self::Agreed(error)
            }
            error => Self::Own(error),
        }
    }
}

pub(super) type Step<T> = std::result::Result<T, Interrupted>;

impl<'a, B: Backend, G: Group<B>> Trainer<'a, B, G> {
    /// One of the replicas of `job`.
    pub(super) fn new(backend: &'a B, group: G, job: &'a Job, prepared: Prepared<'a, B>) -> Self {
        let Prepared {
            share,
            state,
            journal,
        } = prepared;
        let start = &job.start;
        Self {
            backend,
            group,
            share,
            state,
            progress: start.progress.clone(),
            total_steps: job.recipe.total_steps(job.training.len() as u64),
            journal,
            saved: start.class.is_some().then_some(start.progress.step),
            validated: None,
            bad: BadCount::new(job.recipe.max_bad),
            stuck: StuckDetector::new(job.network.classes, job.recipe.stop_if_stuck),
            audit: job.recipe.audit_every.map(Audit::every),
            trained_images: 0,
            trained_seconds: 0.0,
            job,
        }
    }

    fn emit(&mut self, event: &Event) -> Result<()> {
        self.journal
            .as_mut()
            .map_or(Ok(()), |journal| journal.emit(event))
    }

    /// Trains until the last step, a signal or an error.
    pub(super) fn run(&mut self) -> Step<()> {
        self.emit(&Event::Start {
            recipe: json!(self.job.recipe),
            class: self.job.class.clone(),
            step: self.progress.step,
            total_steps: self.total_steps,
            samples: self.job.training.len() as u64,
            passed_over: self.job.start.passed_over.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        })?;
        self.state_is_written()?;
        let mut loader = self.training_loader()?;
        loop {
            let step = self.progress.step;
            let recipe = &self.job.recipe;
            if self.is_due(recipe.validate_every) && self.progress.schedule.validated_at < step {
                let tally = self.validate()?;
                self.progress.schedule.validated_at = step;
                self.watch_validation(&tally)?;
            }
            if step >= self.total_steps {
                return Ok(());
            }
            if self.is_due(recipe.checkpoint_every) {
                self.checkpoint()?;
            }
            self.step(&mut loader)?;
        }
    }

    /// Lets the plateau rule see a validation.
    fn watch_validation(&mut self, tally: &Tally) -> Result<()> {
        let recipe = &self.job.recipe;
        let plateau = &mut self.progress.schedule.plateau;
        if recipe.schedule != Schedule::Plateau || !plateau.validated(tally.correct1, recipe.plateau_rule()) {
            return Ok(());
        }
        let drops = plateau.drops;
        let step = self.progress.step;
        let message =
            format!("validation error stopped improving: learning rate divided by 10 (drop {drops})");
        self.emit(&Event::Warning { step, message })
    }

    /// This replica's images of the rest of the run.
    fn training_loader(&self) -> Result<Loader<B::HostMemory>> {
        let (recipe, share) = (&self.job.recipe, self.share);
        let (batch, micro_batch) = (recipe.batch as u64, recipe.micro_batch);
        let first = self.progress.step * batch + (share.first * micro_batch) as u64;
        let positions = Positions::share(first, batch, share.micro_batches as u64, micro_batch)?;
        let config = self.training_images(positions.until(self.total_steps * batch))?;
        load(self.backend, self.job.training.clone(), config)
    }

    /// How the images at some positions of the training stream are prepared.
    fn training_images(&self, positions: Positions) -> Result<loader::Config> {
        let recipe = &self.job.recipe;
        Ok(loader::Config {
            threads: self.loader_threads(),
            slots: LOADER_SLOTS,
            positions,
            views: recipe.training_views(self.job.training.manifest())?,
            mode: Mode::Train {
                order: Order::new(recipe.seed, self.job.training.len())?,
                on_bad: recipe.on_bad,
            },
        })
    }

    /// Replicas of a process share the threads that prepare images.
    fn loader_threads(&self) -> usize {
        (self.job.recipe.threads / self.group.place().local).max(1)
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
            batch: self.job.recipe.batch as u64,
            samples: self.job.training.len() as u64,
        }
    }

    /// One optimisation step: M leaves, their sum in tree order, one update.
    fn step(&mut self, loader: &mut Loader<B::HostMemory>) -> Step<()> {
        let started = Instant::now();
        self.group.begin(self.progress.step);
        let recipe = &self.job.recipe;
        let (step, batch) = (self.progress.step, recipe.batch);
        let params = StepParams {
            seed: recipe.seed,
            step,
            position: step * batch as u64 + (self.share.first * recipe.micro_batch) as u64,
            learning_rate: recipe
                .schedule
                .rate(recipe.lr, self.moment(step), self.progress.schedule.plateau),
        };
        let own = self.leaves(loader, params)?;
        let reports = agree(&mut self.group, own).map_err(Interrupted::Agreed)?;
        let signal = reports.iter().find_map(|report| report.signal);
        if let Some(signal) = signal.filter(|_| self.group.may_drop_steps()) {
            return Err(Interrupted::Signal(signal));
        }
        for event in reports.iter().flat_map(|report| &report.bad) {
            self.report_bad(Some(step + 1), event)?;
            self.bad
                .add(Split::Train, self.job.training.len() as u64, event)?;
        }
        self.judge(reports.iter().map(|report| &report.findings))?;
        let losses = reports.iter().flat_map(|report| &report.losses);
        let loss = losses.map(|bits| f64::from_bits(*bits)).sum::<f64>() / batch as f64;
        if !loss.is_finite() {
            let what = "the loss".into();
            return Err(Interrupted::Agreed(Error::NonFinite { step: step + 1, what }));
        }
        self.group
            .update(&mut self.state, &recipe.update_rule(), &params)?;
        self.progress.step += 1;
        self.state_is_written()?;

        let seconds = started.elapsed().as_secs_f64();
        self.trained_images += batch as u64;
        self.trained_seconds += seconds;
        self.emit(&Event::Step {
            step: step + 1,
            epoch: self.epochs(),
            loss,
            lr: params.learning_rate,
            images_per_sec: batch as f64 / seconds,
            data_stall: reports.iter().map(|report| report.stall).fold(0.0, f64::max),
            exchange: self.group.exchange_times(),
        })?;
        self.report_audit(reports.iter().map(|report| &report.findings))?;
        if recipe.folds {
            self.emit(&Event::Folds {
                step: step + 1,
                folds: reports.into_iter().flat_map(|report| report.folds).collect(),
            })?;
        }
        self.watch_loss(loss)?;
        signal.map_or(Ok(()), |signal| Err(Interrupted::Signal(signal)))
    }

    /// This replica's leaves of a step, and the sum of them. The inner error is for all to hear; where the others already
    /// wait for what this one sends, it is its own.
    fn leaves(&mut self, loader: &mut Loader<B::HostMemory>, params: StepParams) -> Step<Result<Report>> {
        let mut report = Report::default();
        let Err(error) = self.compute(loader, params, &mut report) else {
            return Ok(Ok(report));
        };
        for event in &report.bad {
            self.report_bad(Some(params.step + 1), event)?;
        }
        if self.group.may_drop_steps() {
            Ok(Err(error))
        } else {
            Err(Interrupted::Own(error))
        }
    }

    fn compute(
        &mut self,
        loader: &mut Loader<B::HostMemory>,
        mut params: StepParams,
        report: &mut Report,
    ) -> Result<()> {
        let audited = self.audited();
        let recomputed = audited
            .map(|turn| self.neighbours_leaf(turn, &params))
            .transpose()?;
        let mut leaf = Vec::new();
        for micro_batch in 0..self.share.micro_batches {
            if self.group.may_drop_steps() {
                report.signal = self.job.stop.asked();
            }
            if report.signal.is_some() {
                return Ok(());
            }
            let waited = Instant::now();
            let slot = loader
                .next_slot()?
                .ok_or_else(|| Error::invalid("the training stream", "another micro-batch", "its end"))?;
            report.stall += waited.elapsed().as_secs_f64();
            report.bad.extend(slot.bad.iter().cloned());
            let mut watch = StepWatch {
                group: &mut self.group,
                folds: self.job.recipe.folds.then_some(&mut report.folds),
                first: self.share.first,
                audited,
                leaf: &mut leaf,
            };
            self.state
                .micro_batch(micro_batch, Batch::of(&slot), &params, &mut watch)?;
            params.position += self.job.recipe.micro_batch as u64;
        }
        for _ in 0..self.share.micro_batches {
            report.losses.push(self.state.outcomes()?.loss_sum().to_bits());
        }
        if !self.group.may_drop_steps() {
            report.signal = self.job.stop.asked();
        }
        report.findings = self.findings()?;
        if let (Some(findings), Some(turn)) = (&mut report.findings, audited) {
            findings.recomputed = recomputed.map(|(leaf, seconds)| {
                findings.seconds += seconds;
                leaf
            });
            findings.computed = Some(Leaf {
                micro_batch: self.share.first + turn,
                folds: leaf,
            });
        }
        Ok(())
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

    /// Scores the validation split with the present weights. Its micro-batches are dealt to the replicas in turn.
    fn validate(&mut self) -> Step<Tally> {
        let Some(data) = self.job.validation.as_ref().filter(|data| !data.is_empty()) else {
            return Ok(Tally::default());
        };
        let started = Instant::now();
        let mut signal = None;
        let own = self.score(data, &mut signal);
        let own = own.map(|tallies| (signal, tallies));
        let scored = agree(&mut self.group, own).map_err(Interrupted::Agreed)?;
        if let Some(signal) = scored.iter().find_map(|(signal, _)| *signal) {
            return Err(Interrupted::Signal(signal));
        }
        let tally = Tally::of_turns(scored.into_iter().map(|(_, tallies)| tallies).collect());
        for event in &tally.bad {
            self.report_bad(None, event)?;
            self.bad.add(Split::Validation, data.len() as u64, event)?;
        }
        let step = self.progress.step;
        self.group.complete_weights(&mut self.state)?;
        self.state_is_written()?;
        if self.journal.is_some() {
            self.emit(&Event::Validation {
                step,
                top1_error: tally.top1_error(),
                top5_error: tally.top5_error(),
                top1: 100.0 - tally.top1_error(),
                top5: 100.0 - tally.top5_error(),
                loss: tally.mean_loss(),
                n: tally.n,
                weights_sha256: self.weights_hash()?,
                seconds: started.elapsed().as_secs_f64(),
            })?;
        }
        self.validated = Some((step, tally.clone()));
        Ok(tally)
    }

    /// Scores this replica's micro-batches of the validation split, unless a signal comes.
    fn score(&mut self, data: &Arc<Dataset>, signal: &mut Option<Signal>) -> Result<Vec<Tally>> {
        let (recipe, place) = (&self.job.recipe, self.group.place());
        let micro_batch = recipe.micro_batch as u64;
        let (first, turn) = (
            place.rank as u64 * micro_batch,
            place.replicas as u64 * micro_batch,
        );
        let config = loader::Config {
            threads: self.loader_threads(),
            slots: LOADER_SLOTS,
            positions: Positions::share(first, turn, 1, recipe.micro_batch)?.until(data.len() as u64),
            views: recipe.test_views()?,
            mode: Mode::Evaluate { on_bad: OnBad::Skip },
        };
        let mut loader = load(self.backend, data.clone(), config)?;
        tally(&mut loader, &mut self.state.validation(), || {
            *signal = self.job.stop.asked();
            signal.is_none()
        })
    }

    fn report_bad(&mut self, step: Option<u64>, event: &BadEvent) -> Result<()> {
        self.emit(&Event::BadSample {
            step,
            sample: event.sample.clone(),
            action: event.action,
        })
    }

    fn epochs(&self) -> f64 {
        self.progress.step as f64 * self.job.recipe.batch as f64 / self.job.training.len() as f64
    }
}

/// Looks on while a replica computes its part of a step.
struct StepWatch<'s, G> {
    group: &'s mut G,
    /// Where folds are wanted.
    folds: Option<&'s mut Vec<Fold>>,
    /// The replica's first micro-batch.
    first: usize,
    /// The micro-batch, of the replica's, whose leaf is audited.
    audited: Option<usize>,
    /// Its folds.
    leaf: &'s mut Vec<u64>,
}

impl<B: Backend, G: Group<B>> Watch<B> for StepWatch<'_, G> {
    fn wants_folds(&self) -> bool {
        self.folds.is_some()
    }

    fn fold(&mut self, micro_batch: usize, layer: &str, pass: FoldOf, fold: u64) {
        if let Some(folds) = &mut self.folds {
            folds.push(Fold {
                micro_batch: self.first + micro_batch,
                layer: layer.into(),
                pass,
                fold: format!("{fold:016x}"),
            });
        }
    }

    fn wants_leaf(&self, micro_batch: usize) -> bool {
        self.audited == Some(micro_batch)
    }

    fn leaf(&mut self, fold: u64) {
        self.leaf.push(fold);
    }

    fn bucket_final(&mut self, bucket: &Bucket, sum: &mut B::Buffer) -> Result<()> {
        self.group.bucket_final(bucket, sum)
    }
}
