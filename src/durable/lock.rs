//! One writer at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::faults::{self, Operation};
use super::folder::parent_of;
use super::new_file::is_at;
use crate::error::{Error, Holder, Result};

/// A lock on a file, which the system lets go of when the process ends, however it ends. The file stays.
#[derive(Debug)]
pub struct Lock {
    /// Closing it lets go of the lock.
    _file: File,
    absent: Option<io::Error>,
}

/// What the file of a lock says of its holder.
#[derive(Serialize, Deserialize)]
struct Line {
    pid: u32,
    host: String,
}

impl Lock {
    /// Takes the lock whose file is `path`, or refuses with [`Error::InUse`], which names the folder and who holds it. Where
    /// the file system has no locks this succeeds, and [`Lock::absent`] says why there is none.
    pub fn take(path: &Path) -> Result<Self> {
        loop {
            let file = faults::before(Operation::Open, path)
                .and_then(|()| {
                    let mut how = OpenOptions::new();
                    how.read(true).write(true).create(true).truncate(false).open(path)
                })
                .map_err(Error::io("open", path))?;
            let locked = faults::before(Operation::Lock, path)
                .map_err(TryLockError::Error)
                .and_then(|()| file.try_lock());
            let absent = match locked {
                Ok(()) => None,
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::InUse {
                        path: parent_of(path).into(),
                        holder: read_holder(file),
                    });
                }
                Err(TryLockError::Error(error)) if is_unsupported(&error) => Some(error),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            };
            // The holder before may have removed the file after it was opened here.
            if is_at(&file, path).map_err(Error::io("examine", path))? {
                write_holder(&file, path).map_err(Error::io("write", path))?;
                return Ok(Self { _file: file, absent });
            }
        }
    }

    /// Why the file system gave no lock, where it did not: then nothing keeps a second process away.
    pub fn absent(&self) -> Option<&io::Error> {
        self.absent.as_ref()
    }
}

/// Whether an attempt to lock failed because the file system cannot.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP].contains(&number))
}

fn write_holder(file: &File, path: &Path) -> io::Result<()> {
    let line = serde_json::to_string(&Line {
        pid: std::process::id(),
        host: host(),
    })? + "\n";
    faults::before(Operation::Truncate, path)?;
    file.set_len(0)?;
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        rest = &rest[faults::write(file, path, rest)?..];
    }
    Ok(())
}

/// Who holds a lock, where its file says so.
fn read_holder(mut file: File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let Line { pid, host } = serde_json::from_str(&text).ok()?;
    Some(Holder { pid, host })
}

/// The machine's name; empty where it cannot be told.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or(String::new(), |name| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::faults::tests::with_faults;

    #[test]
    fn a_second_one_is_refused_with_the_first_ones_name_until_that_one_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let lock = Lock::take(&path).unwrap();
        assert!(lock.absent().is_none());
        let refusal = Lock::take(&path).unwrap_err();
        assert_eq!(refusal.exit_code(), 3);
        let (said, own) = (refusal.to_string(), format!("process {}", std::process::id()));
        assert!(
            said.contains(&own) && said.contains(folder.path().to_str().unwrap()),
            "{said}"
        );
        drop(lock);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_file_system_without_locks_is_said_and_other_failures_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let (lock, operations) = with_faults("ENOLCK@2", || Lock::take(&path));
        assert!(lock.unwrap().absent().is_some());
        assert_eq!(operations.len(), 4, "open, lock, truncate, write");
        for at in 1..=operations.len() {
            let (lock, _) = with_faults(&format!("EIO@{at}"), || Lock::take(&path));
            assert!(lock.unwrap_err().to_string().contains(".lock"));
        }
        Lock::take(&path).unwrap();
    }
}
