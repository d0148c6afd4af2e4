//! What a run leaves behind and shows while it goes on: the first replica's business.

use super::bad::BadList;
use super::event::{Event, Observer};
use super::log::RunLog;
use crate::durable::create_folder;
use crate::error::{Error, Result};
use crate::network::Parameter;
use crate::weights::{CheckpointMeta, CheckpointView, RunFolder, write_checkpoint};

/// The log of a run, its checkpoints, and somebody who looks on.
pub(super) struct Journal<'a> {
    run: &'a RunFolder,
    log: RunLog,
    bad: BadList,
    observer: &'a mut dyn Observer,
}

impl<'a> Journal<'a> {
    /// Opens the log of a run that has finished `step` steps.
    pub(super) fn open(run: &'a RunFolder, step: u64, observer: &'a mut dyn Observer) -> Result<Self> {
        let unsaved = || Error::unsaved(run.root());
        Ok(Self {
            run,
            log: RunLog::open(&run.log(), step).map_err(unsaved())?,
            bad: BadList::open(run.root()).map_err(unsaved())?,
            observer,
        })
    }

    /// Writes an event down, and shows it.
    pub(super) fn emit(&mut self, event: &Event) -> Result<()> {
        let unsaved = || Error::unsaved(self.run.root());
        self.log.append(event).map_err(unsaved())?;
        if let Event::BadSample { sample, action, .. } = event {
            self.bad.add(sample, *action).map_err(unsaved())?;
        }
        self.observer.event(event);
        Ok(())
    }

    /// Writes a checkpoint; gives its path within the run folder. The log of the steps up to there is on disk before,
    /// or there is no checkpoint: no step may be missing from the log.
    pub(super) fn save(
        &mut self,
        meta: &CheckpointMeta,
        parameters: &[Parameter],
        state: &dyn CheckpointView,
    ) -> Result<String> {
        let path = self.run.checkpoint(meta.step);
        self.log
            .sync()
            .and_then(|()| create_folder(&self.run.checkpoints()))
            .and_then(|()| write_checkpoint(&path, meta, parameters, state))
            .map_err(Error::unsaved(self.run.root()))?;
        let within = path.strip_prefix(self.run.root()).unwrap_or(&path);
        Ok(within.display().to_string())
    }

    /// Forgets all but the newest checkpoints. Where that fails nothing is lost but room, so it is only said.
    pub(super) fn tidy(&mut self, step: u64) -> Result<()> {
        let Err(error) = self.run.forget_old_checkpoints(step) else {
            return Ok(());
        };
        let message = format!("an old checkpoint stays: {error}");
        self.emit(&Event::Warning { step, message })
    }
}
