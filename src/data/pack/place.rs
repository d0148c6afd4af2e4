//! Where a folder of shards grows until it is whole.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{Lock, create_folder, remove_file, rename_folder, sync_folder};
use crate::error::{Error, Result};

/// The file of the lock, inside of the folder.
const LOCK: &str = ".lock";

/// The folder `.OUT.packing` beside the destination, for one process at a time. Whoever takes it clears away what a process
/// that died has left; dropped before it has its name, it is gone.
pub(super) struct Place {
    out: PathBuf,
    growing: PathBuf,
    named: bool,
    _lock: Lock,
}

impl Place {
    /// Refuses with [`Error::InUse`] where another process packs into `out`.
    pub(super) fn take(out: &Path) -> Result<Self> {
        let parent = refuse_to_overwrite(out)?;
        let mut name = OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(".packing");
        let growing = parent.join(name);
        create_folder(&growing)?;
        let lock = Lock::take(&growing.join(LOCK)).map_err(|error| match error {
            Error::InUse { holder, .. } => Error::InUse {
                path: out.into(),
                holder,
            },
            error => error,
        })?;
        // It may have been finished meanwhile.
        refuse_to_overwrite(out)?;
        let place = Self {
            out: out.into(),
            growing,
            named: false,
            _lock: lock,
        };
        place.clear()?;
        Ok(place)
    }

    /// Where the shards go.
    pub(super) fn folder(&self) -> &Path {
        &self.growing
    }

    /// Gives the whole folder its name.
    pub(super) fn name(mut self) -> Result<()> {
        sync_folder(&self.growing)?;
        rename_folder(&self.growing, &self.out)?;
        self.named = true;
        // Only now: whoever opens the file before finds it locked, whoever waits for it finds it gone.
        remove_file(&self.out.join(LOCK))
    }

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.growing).map_err(Error::io("read", &self.growing))? {
            let entry = entry.map_err(Error::io("read", &self.growing))?;
            if entry.file_name() != LOCK {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.named {
            // The failure that led here is the one to report.
            drop(fs::remove_dir_all(&self.growing));
        }
    }
}

/// The folder that `out` will be made in, which need not exist yet.
pub(super) fn refuse_to_overwrite(out: &Path) -> Result<PathBuf> {
    let refuse = |found| {
        Err(Error::invalid_hint(
            out.display(),
            "a new or an empty folder",
            found,
            "choose another --out",
        ))
    };
    match fs::read_dir(out).map(Iterator::count) {
        Ok(0) => {}
        Ok(_) => return refuse("one with files in it"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return refuse("a file"),
        Err(error) => return Err(Error::io("examine", out)(error)),
    }
    match (out.file_name(), out.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        (Some(_), Some(parent)) => Ok(parent.to_path_buf()),
        _ => refuse("a path that ends in no name"),
    }
}
