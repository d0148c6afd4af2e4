//! What is done, line by line, for whoever goes on after a crash.

use std::fs;
use std::io;
use std::path::Path;

use crc32fast::Hasher;

use super::append::AppendFile;
use crate::error::{Error, Result};

/// Characters of a line before its record: eight digits and a blank.
const HEAD: usize = 9;

/// A file of records without line ends, each on a line of its own behind the CRC-32 of all records so far. So a line
/// that is torn, damaged or not in its place is told from a whole one, and so is every line after it.
pub struct Journal {
    file: AppendFile,
    /// Of all records.
    sum: Hasher,
}

impl Journal {
    /// The records of the journal `path` before the first that is not whole; none where there is no such file.
    pub fn read(path: &Path) -> Result<Vec<String>> {
        match fs::read(path) {
            Ok(bytes) => Ok(whole_records(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Opens the journal to go on after `records`, the first of those that [`Journal::read`] gives; with none it is new.
    pub fn open(path: &Path, records: &[String]) -> Result<Self> {
        let mut sum = Hasher::new();
        records.iter().for_each(|record| add(&mut sum, record));
        let keep = records
            .iter()
            .map(|record| HEAD + record.len() + 1)
            .sum::<usize>();
        let file = AppendFile::open(path, keep as u64)?;
        Ok(Self { file, sum })
    }

    /// Adds a record, which survives a power failure from here on.
    pub fn append(&mut self, record: &str) -> Result<()> {
        let mut sum = self.sum.clone();
        add(&mut sum, record);
        self.file.append(line(&sum, record).as_bytes())?;
        self.sum = sum;
        self.file.sync()
    }
}

fn add(sum: &mut Hasher, record: &str) {
    sum.update(record.as_bytes());
    sum.update(b"\n");
}

fn line(sum: &Hasher, record: &str) -> String {
    format!("{:08x} {record}\n", sum.clone().finalize())
}

fn whole_records(bytes: &[u8]) -> Vec<String> {
    let mut sum = Hasher::new();
    let records = bytes.split_inclusive(|byte| *byte == b'\n').map_while(|found| {
        let record = std::str::from_utf8(found.get(HEAD..)?).ok()?.strip_suffix('\n')?;
        add(&mut sum, record);
        (found == line(&sum, record).as_bytes()).then(|| record.to_string())
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::faults::tests::with_faults;

    const RECORDS: [&str; 4] = ["first", "", "third, which is longer", "fourth"];

    fn fill(path: &Path) {
        let mut journal = Journal::open(path, &[]).unwrap();
        RECORDS.iter().for_each(|record| journal.append(record).unwrap());
    }

    #[test]
    fn whatever_happens_to_a_byte_only_whole_records_before_it_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert!(Journal::read(&path).unwrap().is_empty());
        fill(&path);
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole_records(&whole), RECORDS);
        let line_of = |at: usize| whole[..at].iter().filter(|byte| **byte == b'\n').count();
        for at in 0..whole.len() {
            assert_eq!(whole_records(&whole[..at]), RECORDS[..line_of(at)], "cut at {at}");
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                let found = whole_records(&damaged);
                assert_eq!(found, RECORDS[..line_of(at)], "bit {bit} of byte {at}");
            }
        }
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(
            whole_records(&[lines[0], lines[2], lines[3]].concat()),
            RECORDS[..1]
        );
        assert_eq!(whole_records(&[lines[0], lines[0]].concat()), RECORDS[..1]);
    }

    #[test]
    fn it_goes_on_after_the_records_that_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fill(&path);
        let kept = &Journal::read(&path).unwrap()[..2];
        let mut journal = Journal::open(&path, kept).unwrap();
        journal.append("another").unwrap();
        assert_eq!(Journal::read(&path).unwrap(), [RECORDS[0], RECORDS[1], "another"]);
        Journal::open(&path, &[]).unwrap();
        assert!(Journal::read(&path).unwrap().is_empty());
    }

    #[test]
    fn every_operation_may_fail_and_what_was_accepted_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let fill = || -> Result<usize> {
            let mut journal = Journal::open(&path, &[])?;
            let accepted = RECORDS.iter().take_while(|record| journal.append(record).is_ok());
            Ok(accepted.count())
        };
        let (filled, operations) = with_faults("", fill);
        assert_eq!(filled.unwrap(), RECORDS.len());
        assert_eq!(
            operations.len(),
            3 + 2 * RECORDS.len(),
            "open, truncate, sync-folder; then write, sync"
        );
        for at in 1..=operations.len() {
            for faults in [format!("EIO@{at}"), format!("short@{at},ENOSPC@{}+", at + 1)] {
                let _ = fs::remove_file(&path);
                let accepted = with_faults(&faults, fill).0.unwrap_or(0);
                let found = Journal::read(&path).unwrap();
                assert!(
                    (accepted..=accepted + 1).contains(&found.len()) && RECORDS[..found.len()] == found[..],
                    "{faults}: {found:?}"
                );
            }
        }
    }
}
