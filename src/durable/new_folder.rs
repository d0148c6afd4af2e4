//! Folders that are either whole or absent.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::{create_folder, remove_file, rename_folder, sync_folder};
use super::lock::Lock;
use crate::error::{Error, Result};

/// The file of the lock, inside of the folder.
const LOCK: &str = ".lock";

/// A folder in the making, beside its destination: `.NAME.unfinished`, for one process at a time. Whoever takes it clears
/// away what a process that died has left; dropped before [`NewFolder::finish`], it is gone.
#[derive(Debug)]
pub struct NewFolder {
    out: PathBuf,
    unfinished: PathBuf,
    finished: bool,
    _lock: Lock,
}

impl NewFolder {
    /// Starts to make `out`, which must not exist yet or be an empty folder. Refuses with [`Error::InUse`] where another
    /// process is making it.
    pub fn create(out: &Path) -> Result<Self> {
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
        let folder = Self {
            out: out.into(),
            unfinished,
            finished: false,
            _lock: lock,
        };
        folder.clear()?;
        Ok(folder)
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Gives it its name, durably.
    pub fn finish(mut self) -> Result<()> {
        sync_folder(&self.unfinished)?;
        rename_folder(&self.unfinished, &self.out)?;
        self.finished = true;
        // Only now: whoever opens the file before finds it locked, whoever waits for it finds it gone.
        remove_file(&self.out.join(LOCK))
    }

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.unfinished).map_err(Error::io("read", &self.unfinished))? {
            let entry = entry.map_err(Error::io("read", &self.unfinished))?;
            if entry.file_name() != LOCK {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
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
        folder.finish().unwrap();
        let names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["whole"]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        assert!(matches!(NewFolder::create(&out), Err(Error::Invalid(_))));
    }
}
