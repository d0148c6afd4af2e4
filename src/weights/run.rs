//! Where a run keeps its files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Loaded, load};
use crate::durable::{Lock, remove_file, remove_orphans};
use crate::error::{Error, Result};

/// Checkpoints that are kept: the newest, and one to fall back on.
const KEPT_CHECKPOINTS: usize = 2;

/// The files of one run: `recipe.toml`, `log.jsonl`, `bad.jsonl`, `checkpoints/`, and the file of a lock, `.lock`.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
    /// Held where this process writes the folder.
    lock: Option<Arc<Lock>>,
}

impl RunFolder {
    /// Names the files of the run in `root`; touches nothing.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            lock: None,
        }
    }

    /// Takes the folder for this process, until the last clone of what this returns is dropped, and removes the temporary
    /// files of processes that died here. Errors where another process has it.
    pub fn locked(mut self) -> Result<Self> {
        let lock = Lock::take(&self.lock_file()).map_err(Error::unsaved(&self.root))?;
        self.lock = Some(Arc::new(lock));
        for folder in [self.root.clone(), self.checkpoints()] {
            if folder.is_dir() {
                remove_orphans(&folder).map_err(Error::unsaved(&self.root))?;
            }
        }
        Ok(self)
    }

    /// What to say where the file system has no locks, so that nothing keeps a second process away.
    pub fn unguarded(&self) -> Option<String> {
        let reason = self.lock.as_ref()?.absent()?;
        Some(format!(
            "{}: the file system gives no lock ({reason}): see to it that no other process writes this folder",
            self.root.display()
        ))
    }

    /// The file of the lock.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join(".lock")
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The decided recipe.
    pub fn recipe(&self) -> PathBuf {
        self.root.join("recipe.toml")
    }

    /// One JSON object a line.
    pub fn log(&self) -> PathBuf {
        self.root.join("log.jsonl")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The checkpoint after `step` finished steps. Zero-padded, so that names sort by step.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:09}.safetensors"))
    }

    /// Every checkpoint file and its step, newest first.
    pub fn list_checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.checkpoints();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let step = name
                .strip_prefix("step-")
                .and_then(|rest| rest.strip_suffix(".safetensors"));
            if let Some(step) = step.and_then(|digits| digits.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// Forgets checkpoints but for the newest two up to `step`. Those of later steps are damaged, or the run would have gone
    /// on from there: they will be written again.
    pub fn forget_old_checkpoints(&self, step: u64) -> Result<()> {
        let saved = self.list_checkpoints()?.into_iter().filter(|(at, _)| *at <= step);
        saved
            .skip(KEPT_CHECKPOINTS)
            .try_for_each(|(_, old)| remove_file(&old))
    }
}

/// What a search for the newest whole checkpoint found.
pub struct Newest<T> {
    /// The checkpoint and what the check made of it; `None` where there is no whole one.
    pub found: Option<(Loaded, T)>,
    /// What is wrong with the newer ones.
    pub passed_over: Vec<Error>,
}

/// Opens the newest checkpoint of a run that `check` accepts. `check` reads the arrays and so decides what is whole.
pub fn newest_checkpoint<T>(
    run: &RunFolder,
    mut check: impl FnMut(&Loaded) -> Result<T>,
) -> Result<Newest<T>> {
    let mut passed_over = Vec::new();
    for (_, path) in run.list_checkpoints()? {
        match load(&path).and_then(|loaded| check(&loaded).map(|value| (loaded, value))) {
            Ok(found) => {
                return Ok(Newest {
                    found: Some(found),
                    passed_over,
                });
            }
            Err(error) => passed_over.push(error),
        }
    }
    Ok(Newest {
        found: None,
        passed_over,
    })
}

/// Opens what `--weights` names: a safetensors file, or a run folder, which means its newest whole checkpoint. Returns
/// what `check` made of it and what was passed over.
pub fn open_weights<T>(
    path: &Path,
    mut check: impl FnMut(&Loaded) -> Result<T>,
) -> Result<(Loaded, T, Vec<Error>)> {
    if !path.is_dir() {
        let loaded = load(path)?;
        let value = check(&loaded)?;
        return Ok((loaded, value, Vec::new()));
    }
    let mut newest = newest_checkpoint(&RunFolder::new(path), check)?;
    match newest.found {
        Some((loaded, value)) => Ok((loaded, value, newest.passed_over)),
        None => Err(newest.passed_over.pop().unwrap_or_else(|| {
            Error::invalid_hint(
                path.display(),
                "a run folder with a checkpoint, or a safetensors file",
                "a folder without checkpoints/step-*.safetensors",
                "has the run reached its first checkpoint?",
            )
        })),
    }
}
