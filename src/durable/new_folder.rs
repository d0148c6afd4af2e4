//! Folders that are either whole or absent.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::{create_folder, remove_file, rename_folder, sync_folder};
use super::lock::Lock;
use crate::error::{Error, Result};

/// The file of the lock, inside of the folder.
const LOCK: &str = ".lock";
/// The file of the [`Journal`](super::Journal), where there is one.
const JOURNAL: &str = ".journal";

/// A folder in the making, beside its destination: `.NAME.unfinished`, for one process at a time. Dropped before
/// [`NewFolder::finish`], it is gone, unless it was said to stay.
#[derive(Debug)]
pub struct NewFolder {
    out: PathBuf,
    unfinished: PathBuf,
    when_dropped: WhenDropped,
    _lock: Lock,
}

/// What becomes of a folder that nobody works on any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDropped {
    /// It is removed.
    Removed,
    /// It is left to whoever goes on.
    Stays,
}

impl NewFolder {
    /// Starts to make `out`, which must not exist yet or be an empty folder, and clears away what a process that died has
    /// left of it. Refuses with [`Error::InUse`] where another process is making it.
    pub fn create(out: &Path) -> Result<Self> {
        let mut folder = Self::take(out)?;
        folder.when_dropped(WhenDropped::Removed);
        folder.keep_only(|_| false)?;
        Ok(folder)
    }

    /// The same, but what a process that died has left is still there. It stays where it has a journal, until something
    /// else is said.
    pub fn take(out: &Path) -> Result<Self> {
        let parent = refuse_to_overwrite(out)?;
        let mut name = OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(".unfinished");
        let unfinished = parent.join(name);
        create_folder(&unfinished)?;
        let lock = Lock::take(&unfinished.join(LOCK)).map_err(|error| match error {
            Error::InUse { holder, .. } => Error::InUse {
                path: out.into(),
                holder,
            },
            error => error,
        })?;
        // It may have been finished meanwhile.
        refuse_to_overwrite(out)?;
        let when_dropped = match unfinished.join(JOURNAL).exists() {
            true => WhenDropped::Stays,
            false => WhenDropped::Removed,
        };
        Ok(Self {
            out: out.into(),
            unfinished,
            when_dropped,
            _lock: lock,
        })
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Where a journal says what is done, if one is kept. The finished folder does not have it.
    pub fn journal(&self) -> PathBuf {
        self.unfinished.join(JOURNAL)
    }

    /// Removes all files but those whose names are to be kept, and the lock's.
    pub fn keep_only(&self, mut is_kept: impl FnMut(&OsStr) -> bool) -> Result<()> {
        for entry in fs::read_dir(&self.unfinished).map_err(Error::io("read", &self.unfinished))? {
            let entry = entry.map_err(Error::io("read", &self.unfinished))?;
            if entry.file_name() != LOCK && !is_kept(&entry.file_name()) {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Says what becomes of it where it is not finished.
    pub fn when_dropped(&mut self, what: WhenDropped) {
        self.when_dropped = what;
    }

    /// Whether it stays where it is not finished.
    pub fn stays(&self) -> bool {
        self.when_dropped == WhenDropped::Stays
    }

    /// Gives it its name, durably.
    pub fn finish(mut self) -> Result<()> {
        sync_folder(&self.unfinished)?;
        rename_folder(&self.unfinished, &self.out)?;
        self.when_dropped = WhenDropped::Stays;
        // Only now: a journal that is removed before the folder has its name is missed by whoever goes on in between.
        // Whoever opens the lock's file before finds it locked, whoever waits for it finds it gone.
        let journal = self.out.join(JOURNAL);
        if journal.exists() {
            remove_file(&journal)?;
        }
        remove_file(&self.out.join(LOCK))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.stays() {
            // What cannot be removed now, the next attempt removes.
            drop(fs::remove_dir_all(&self.unfinished));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_its_name_when_it_is_whole_and_one_maker() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let folder = NewFolder::create(&out).unwrap();
        fs::write(folder.path().join("half"), b"x").unwrap();
        assert!(matches!(
            NewFolder::create(&out),
            Err(Error::InUse { holder: Some(_), .. })
        ));
        assert!(!out.exists());
        drop(folder);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

        let left = root.path().join(".out.unfinished");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half"), b"x").unwrap();
        let folder = NewFolder::create(&out).unwrap();
        fs::write(folder.path().join("whole"), b"y").unwrap();
        fs::write(folder.journal(), b"z").unwrap();
        folder.finish().unwrap();
        let names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["whole"]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        assert!(matches!(NewFolder::create(&out), Err(Error::Invalid(_))));
    }
    #[test]
    fn what_has_a_journal_stays_for_whoever_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let mut folder = NewFolder::take(&out).unwrap();
        assert!(!folder.stays());
        for name in ["whole", "half", JOURNAL] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        folder.when_dropped(WhenDropped::Stays);
        drop(folder);

        let folder = NewFolder::take(&out).unwrap();
        assert!(folder.stays() && folder.path().join("half").exists());
        folder
            .keep_only(|name| name == "whole" || name == JOURNAL)
            .unwrap();
        assert!(folder.path().join("whole").exists() && !folder.path().join("half").exists());
        drop(folder);

        let mut folder = NewFolder::take(&out).unwrap();
        folder.when_dropped(WhenDropped::Removed);
        drop(folder);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
