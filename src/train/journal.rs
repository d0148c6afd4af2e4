//! What a run leaves behind and shows while it goes on: the first replica's business.

use super::bad::BadList;
use super::event::{Event, Observer};
use super::log::RunLog;
use crate::error::{Error, Result};
use crate::network::Parameter;
use crate::weights::{CheckpointMeta, CheckpointView, RunFolder, durable, write_checkpoint};

/// Checkpoints that are kept: the newest, and one to fall back on.
const KEPT_CHECKPOINTS: usize = 2;

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
        let log = RunLog::resume(&run.log(), step)?;
        let bad = BadList::open(run.root())?;
        Ok(Self {
            run,
            log,
            bad,
            observer,
        })
    }

    /// Writes an event down, and shows it.
    pub(super) fn emit(&mut self, event: &Event) -> Result<()> {
        self.log.append(event)?;
        if let Event::BadSample { sample, action, .. } = event {
            self.bad.add(sample, *action)?;
        }
        self.observer.event(event);
        Ok(())
    }

    /// Writes a checkpoint; gives its path within the run folder.
    pub(super) fn save(
        &self,
        meta: &CheckpointMeta,
        parameters: &[Parameter],
        state: &dyn CheckpointView,
    ) -> Result<String> {
        let path = self.run.checkpoint(meta.step);
        let folder = self.run.checkpoints();
        std::fs::create_dir_all(&folder).map_err(|source| Error::Checkpoint {
            path: path.clone(),
            source,
        })?;
        write_checkpoint(&path, meta, parameters, state)?;
        let within = path.strip_prefix(self.run.root()).unwrap_or(&path);
        Ok(within.display().to_string())
    }

    /// Forgets all but the newest checkpoints.
    pub(super) fn tidy(&self) -> Result<()> {
        for (_, old) in self.run.list_checkpoints()?.into_iter().skip(KEPT_CHECKPOINTS) {
            std::fs::remove_file(&old).map_err(Error::io("remove", &old))?;
        }
        let folder = self.run.checkpoints();
        durable::remove_orphans(&folder).map_err(Error::io("clean", &folder))
    }
}
