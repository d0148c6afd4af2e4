//! Files that grow at their end.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::faults::{self, Operation};
use super::folder::{parent_of, sync_folder};
use crate::error::{Error, Result};

/// A file that grows record by record. A record that cannot be written whole is taken back, so that only a process that
/// dies leaves a part of one.
pub struct AppendFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    len: u64,
    /// Whether a part of a record stands behind them that could not be taken back.
    torn: bool,
}

impl AppendFile {
    /// Opens the file to go on after its first `keep` bytes; creates it where it does not exist.
    pub fn open(path: &Path, keep: u64) -> Result<Self> {
        let is_new = !path.exists();
        let file = faults::before(Operation::Open, path)
            .and_then(|()| OpenOptions::new().append(true).create(true).open(path))
            .map_err(Error::io("open", path))?;
        let opened = Self {
            path: path.into(),
            file,
            len: keep,
            torn: false,
        };
        opened.truncate().map_err(Error::io("truncate", path))?;
        if is_new {
            sync_folder(parent_of(path))?;
        }
        Ok(opened)
    }

    /// Adds a record, in one write where the system takes it.
    pub fn append(&mut self, record: &[u8]) -> Result<()> {
        self.try_append(record).map_err(Error::io("write", &self.path))
    }

    fn try_append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.torn {
            self.truncate()?;
            self.torn = false;
        }
        let mut rest = record;
        while !rest.is_empty() {
            match faults::write(&self.file, &self.path, rest) {
                Ok(written) if written > 0 => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    if rest.len() < record.len() {
                        self.torn = self.truncate().is_err();
                    }
                    return Err(failed.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.len += record.len() as u64;
        Ok(())
    }

    fn truncate(&self) -> io::Result<()> {
        faults::before(Operation::Truncate, &self.path)?;
        self.file.set_len(self.len)
    }

    /// Makes what was added survive a power failure.
    pub fn sync(&self) -> Result<()> {
        faults::before(Operation::Sync, &self.path)
            .and_then(|()| self.file.sync_data())
            .map_err(Error::io("sync", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::faults::tests::with_faults;

    const RECORDS: [&[u8]; 3] = [b"first\n", b"second\n", b"third\n"];

    /// Adds the records; gives those that were accepted.
    fn fill(path: &Path) -> Result<Vec<&'static [u8]>> {
        let mut file = AppendFile::open(path, 0)?;
        let accepted = RECORDS.into_iter().filter(|record| file.append(record).is_ok());
        let accepted = accepted.collect();
        file.sync()?;
        Ok(accepted)
    }

    #[test]
    fn every_operation_may_fail_and_only_whole_records_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (_, operations) = with_faults("", || fill(&path));
        assert_eq!(
            operations.len(),
            7,
            "open, truncate, sync-folder, three writes, sync"
        );
        for at in 1..=operations.len() {
            // The disk is full: alone, after half of a record, and for good.
            for faults in [
                format!("ENOSPC@{at}"),
                format!("short@{at},ENOSPC@{}", at + 1),
                format!("ENOSPC@{at}+"),
                format!("short@{at},ENOSPC@{},EIO@{}", at + 1, at + 2),
            ] {
                let _ = std::fs::remove_file(&path);
                let (accepted, _) = with_faults(&faults, || fill(&path));
                let there = std::fs::read(&path).unwrap_or_default();
                match accepted {
                    Ok(accepted) => {
                        let rest = there.strip_prefix(&accepted.concat()[..]).expect(&faults);
                        let torn = faults.contains("EIO") && !rest.ends_with(b"\n");
                        assert!(rest.is_empty() || torn, "{faults}");
                    }
                    Err(error) => {
                        assert!(error.to_string().contains("os error"), "{error}");
                        assert!(RECORDS.concat().starts_with(&there), "{faults}");
                    }
                }
            }
            let _ = std::fs::remove_file(&path);
            let (accepted, _) = with_faults(&format!("short@{at}"), || fill(&path));
            assert_eq!(accepted.unwrap(), RECORDS, "short at {}", operations[at - 1]);
            assert_eq!(std::fs::read(&path).unwrap(), RECORDS.concat());
        }
    }

    #[test]
    fn what_stands_behind_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, b"whole\ntor").unwrap();
        AppendFile::open(&path, 6).unwrap().append(b"next\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole\nnext\n");
    }
}
