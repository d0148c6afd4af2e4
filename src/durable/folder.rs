//! Folders, and what dead processes leave in them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use super::faults::{self, Operation};
use super::new_file::{PARTIAL, is_at};
use crate::error::{Error, Result};

/// Creates a folder, and those above it, where it does not exist; its name survives a power failure.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    faults::before(Operation::CreateFolder, path)
        .and_then(|()| fs::create_dir_all(path))
        .map_err(Error::io("create", path))?;
    sync_folder(parent_of(path))
}

/// Makes the names in a folder survive a power failure.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    faults::before(Operation::SyncFolder, path)
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(Error::io("sync", path))
}

/// Removes a file.
pub fn remove_file(path: &Path) -> Result<()> {
    faults::before(Operation::Remove, path)
        .and_then(|()| fs::remove_file(path))
        .map_err(Error::io("remove", path))
}

/// Gives a finished folder its name, in the same parent folder; an empty folder in the way is replaced.
pub(super) fn rename_folder(from: &Path, to: &Path) -> Result<()> {
    faults::before(Operation::Rename, to)
        .and_then(|()| fs::rename(from, to))
        .map_err(Error::io("rename the finished folder to", to))?;
    sync_folder(parent_of(to))
}

/// The folder of `path`.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes the temporary files that dead processes have left in `folder`. A living process holds a lock on its own;
/// where the file system has no locks, nobody can tell, and all stay.
pub fn remove_orphans(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            continue;
        }
        // Held until the file is gone: whoever has just created it cannot claim it meanwhile.
        if let Some(_held) = take_orphan(&path)? {
            match remove_file(&path) {
                // Somebody else has cleaned up.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

/// Locks a temporary file that no living process has.
fn take_orphan(path: &Path) -> Result<Option<File>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Another user's.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) if super::lock::is_unsupported(&error) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    // It may have got its name in between.
    let is_there = is_at(&file, path).map_err(Error::io("examine", path))?;
    Ok(is_there.then_some(file))
}
