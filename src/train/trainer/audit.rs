//! What a replica does to find silent corruption; [`crate::train::audit`] says how it is judged.

use std::time::Instant;

use super::{Interrupted, Step, Trainer};
use crate::backend::Backend;
use crate::data::loader::{self, Positions};
use crate::error::{Error, Result};
use crate::exec::{StateFolds, load};
use crate::parallel::control::host_name;
use crate::parallel::{Group, agree};
use crate::plan::{Batch, Bucket, StepParams};
use crate::train::audit::{Findings, Kept, Leaf, verdict};
use crate::train::event::Event;

/// What a replica remembers from one step to the next.
#[derive(Debug)]
pub(super) struct Audit {
    /// Steps from one recomputed leaf to the next.
    every: u64,
    /// Weights and momentum as they were last written, where this replica has its own.
    written: Option<StateFolds>,
}

impl Audit {
    pub(super) fn every(steps: u64) -> Self {
        Self {
            every: steps,
            written: None,
        }
    }

    /// Which of its `micro_batches` every replica computes for its neighbour in the step after `finished` ones, if that
    /// is due; all have their turn.
    fn turn(&self, finished: u64, micro_batches: usize) -> Option<usize> {
        let due = (finished + 1).is_multiple_of(self.every);
        due.then(|| (finished / self.every % micro_batches as u64) as usize)
    }
}

impl<B: Backend, G: Group<B>> Trainer<'_, B, G> {
    /// Remembers weights and momentum; whoever has written them calls this.
    pub(super) fn state_is_written(&mut self) -> Result<()> {
        if let Some(audit) = &mut self.audit
            && self.group.has_own_state()
        {
            audit.written = Some(self.state.fold_state()?);
        }
        Ok(())
    }

    /// What this replica has to say of its state now; nothing where that is not wanted.
    pub(super) fn findings(&self) -> Result<Option<Findings>> {
        let Some(audit) = &self.audit else {
            return Ok(None);
        };
        let started = Instant::now();
        let state = audit.written.map(|written| {
            let found = self.state.fold_state()?;
            Ok(Kept { written, found })
        });
        Ok(Some(Findings {
            host: host_name(),
            state: state.transpose()?,
            computed: None,
            recomputed: None,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }

    /// The micro-batch of this replica's part of the step that its neighbour computes, too.
    pub(super) fn audited(&self) -> Option<usize> {
        let audit = self.audit.as_ref()?;
        audit.turn(self.progress.step, self.share.micro_batches)
    }

    /// Computes micro-batch `turn` of the neighbour's part of a step; says how many seconds that took, too.
    pub(super) fn neighbours_leaf(&mut self, turn: usize, params: &StepParams) -> Result<(Leaf, f64)> {
        let started = Instant::now();
        let (place, recipe) = (self.group.place(), &self.job.recipe);
        let neighbour = (place.rank + 1) % place.replicas;
        let micro_batch = neighbour * self.share.micro_batches + turn;
        let (batch, size) = (recipe.batch as u64, recipe.micro_batch);
        let position = params.step * batch + (micro_batch * size) as u64;
        let positions = Positions::share(position, batch, 1, size)?.until(position + size as u64);
        let config = loader::Config {
            slots: 1,
            ..self.training_images(positions)?
        };
        let mut loader = load(self.backend, self.job.training.clone(), config)?;
        let slot = loader
            .next_slot()?
            .ok_or_else(|| Error::invalid("the neighbour's images", "a micro-batch", "none"))?;
        let params = StepParams { position, ..*params };
        let folds = self.state.leaf_of(Batch::of(&slot), &params)?;
        Ok((Leaf { micro_batch, folds }, started.elapsed().as_secs_f64()))
    }

    /// Compares the state of all replicas with what was written: before it is saved.
    pub(super) fn check_state(&mut self) -> Step<()> {
        if self.audit.is_none() {
            return Ok(());
        }
        let own = self.findings();
        let all = agree(&mut self.group, own).map_err(Interrupted::Agreed)?;
        self.judge(all.iter())
    }

    /// Says that a step was audited, if it was.
    pub(super) fn report_audit<'f>(&mut self, all: impl Iterator<Item = &'f Option<Findings>>) -> Result<()> {
        let audited: Vec<&Findings> = all
            .flatten()
            .filter(|findings| findings.recomputed.is_some())
            .collect();
        if audited.is_empty() {
            return Ok(());
        }
        self.emit(&Event::Audit {
            step: self.progress.step,
            micro_batches: audited.len(),
            seconds: audited
                .iter()
                .map(|findings| findings.seconds)
                .fold(0.0, f64::max),
        })
    }

    /// Ends the run where what the replicas found is not as it must be.
    pub(super) fn judge<'f>(&self, all: impl Iterator<Item = &'f Option<Findings>>) -> Step<()> {
        let all: Vec<&Findings> = all.flatten().collect();
        let plan = self.state.plan();
        let layer = |bucket: &Bucket| plan.steps[bucket.step].name.as_str();
        let layers: Vec<&str> = plan.buckets.iter().map(layer).collect();
        match verdict(self.progress.step, &all, &layers) {
            None => Ok(()),
            Some(corruption) => Err(Interrupted::Agreed(Error::Corrupted(Box::new(corruption)))),
        }
    }
}
