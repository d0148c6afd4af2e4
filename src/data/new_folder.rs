//! A folder that appears when it is whole.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A folder in the making, beside its destination: `.NAME.unfinished`. Dropped before [`NewFolder::finish`], it
/// disappears; what a kill leaves of it, the next attempt removes.
#[derive(Debug)]
pub(super) struct NewFolder {
    unfinished: PathBuf,
    out: PathBuf,
    parent: PathBuf,
    /// The open folder. Its lock keeps other processes out, and goes when this one does, however it ends.
    _lock: File,
    finished: bool,
}

impl NewFolder {
    /// Starts to make `out`, which must not exist yet or be an empty folder.
    pub(super) fn create(out: &Path) -> Result<Self> {
        let parent = refuse_to_overwrite(out)?;
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = parent.join(format!(".{name}.unfinished"));
        fs::create_dir_all(&unfinished).map_err(Error::io("create", &unfinished))?;
        let lock = File::open(&unfinished).map_err(Error::io("open", &unfinished))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::invalid_hint(
                    out.display(),
                    "a folder that nobody else is making",
                    "another process at work on it",
                    "wait for it, or choose another --out",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &unfinished)(error)),
        }
        clear(&unfinished).map_err(Error::io("clear", &unfinished))?;
        Ok(Self {
            unfinished,
            out: out.to_path_buf(),
            parent,
            _lock: lock,
            finished: false,
        })
    }

    /// Where its files are written.
    pub(super) fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Gives it its name, durably.
    pub(super) fn finish(mut self) -> Result<()> {
        sync(&self.unfinished)?;
        // An empty folder in the way is replaced.
        fs::rename(&self.unfinished, &self.out)
            .map_err(Error::io("rename the finished folder to", &self.out))?;
        self.finished = true;
        sync(&self.parent)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed now, the next attempt removes.
            let _ = fs::remove_dir_all(&self.unfinished);
        }
    }
}

/// The folder that `out` will be made in, which need not exist yet.
fn refuse_to_overwrite(out: &Path) -> Result<PathBuf> {
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

fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes the names in a folder survive a power failure.
fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appears_when_it_is_whole_and_leaves_nothing_otherwise() {
        let root = tempfile::tempdir().expect("a folder");
        let out = root.path().join("deeper/shards");
        let folder = NewFolder::create(&out).expect("a new folder");
        fs::write(folder.path().join("half"), b"x").expect("a file");
        let busy = NewFolder::create(&out)
            .expect_err("somebody is at it")
            .to_string();
        assert!(busy.contains("another process"), "{busy}");
        assert!(!out.exists());
        drop(folder);
        assert_eq!(
            fs::read_dir(root.path().join("deeper"))
                .expect("a folder")
                .count(),
            0
        );

        // What a kill leaves: files in the unfinished folder, and no lock.
        let left = root.path().join("deeper/.shards.unfinished");
        fs::create_dir_all(left.join("folder")).expect("a folder");
        fs::write(left.join("half"), b"x").expect("a file");
        let folder = NewFolder::create(&out).expect("nobody is at it");
        fs::write(folder.path().join("whole"), b"y").expect("a file");
        folder.finish().expect("a whole folder");
        let names: Vec<_> = fs::read_dir(&out)
            .expect("a folder")
            .map(|entry| entry.expect("a file").file_name())
            .collect();
        assert_eq!(names, ["whole"]);
        assert!(!left.exists());
        assert!(NewFolder::create(&out).is_err(), "it has files in it");
    }
}
