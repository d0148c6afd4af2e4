//! Files that are either whole or absent, whatever happens while they are written.

use std::fs::{self, File};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::faults::{self, Operation};
use super::folder::{parent_of, remove_orphans, sync_folder};
use super::lock::is_unsupported;
use crate::error::{Error, Result};

/// What the names of temporary files begin with.
pub(super) const PARTIAL: &str = ".verydeep-partial-";

/// A file that gets its name when it is whole: until [`NewFile::commit`] it grows under a temporary name in the same
/// folder. Dropped before, it is gone, and what had its name still has it.
pub struct NewFile {
    path: PathBuf,
    to: BufWriter<NamedTempFile<Growing>>,
}

/// A file without its name.
struct Growing {
    file: File,
    /// The name that it will have.
    path: PathBuf,
}

impl NewFile {
    /// Begins the file `path`, or the file that it is a link to. What is there and is no file, a device for instance, is
    /// refused: it would be replaced.
    pub fn create(path: &Path) -> Result<Self> {
        let path = &destination(path)?;
        let open = |temporary: &Path| {
            let file = File::create_new(temporary)?;
            if !is_claimed(&file, temporary)? {
                // Under another name then.
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(Growing {
                file,
                path: path.into(),
            })
        };
        let temporary = faults::before(Operation::Create, path)
            .and_then(|()| {
                tempfile::Builder::new()
                    .prefix(PARTIAL)
                    .make_in(parent_of(path), open)
            })
            .map_err(Error::io("create", path))?;
        Ok(Self {
            path: path.into(),
            to: BufWriter::with_capacity(1 << 16, temporary),
        })
    }

    /// Makes the file durable and gives it its name. Where that fails the name is what it was before, unless what fails is
    /// the very last operation, the sync of the folder: then the file is there and whole, for as long as the power stays.
    pub fn commit(self) -> Result<()> {
        let Self { path, to } = self;
        let temporary = to
            .into_inner()
            .map_err(IntoInnerError::into_error)
            .map_err(Error::io("write", &path))?;
        faults::before(Operation::Sync, &path)
            .and_then(|()| temporary.as_file().file.sync_all())
            .map_err(Error::io("sync", &path))?;
        faults::before(Operation::Rename, &path)
            .and_then(|()| Ok(temporary.persist(&path)?))
            .map_err(Error::io("rename a temporary file to", &path))?;
        sync_folder(parent_of(&path))
    }
}

/// Where a file of that name lies: links lead there, and stay.
fn destination(path: &Path) -> Result<PathBuf> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path.into()),
        found => found.map_err(Error::io("look at", path))?,
    };
    let path = match found.is_symlink() {
        true => fs::canonicalize(path).map_err(Error::io("follow the link", path))?,
        false => path.into(),
    };
    match fs::metadata(&path).map_err(Error::io("look at", &path))? {
        found if found.is_file() => Ok(path),
        found => {
            let kind = if found.is_dir() {
                "a folder"
            } else {
                "a device or a pipe"
            };
            let why = format!("it is {kind}, which a file would replace; name another file");
            Err(Error::io("write", &path)(io::Error::other(why)))
        }
    }
}

/// Locks a temporary file, which tells others that its process lives. `false` where one of them was faster and took it for
/// an orphan.
fn is_claimed(file: &File, temporary: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(false),
        // Then nobody removes what he cannot lock.
        Err(fs::TryLockError::Error(error)) if is_unsupported(&error) => return Ok(true),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    is_at(file, temporary)
}

/// Whether the open `file` is still the one at `path`.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write(&self.file, &self.path, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `path`, whole or not at all, with what `fill` writes; cleans its folder of what dead processes have left.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut NewFile) -> io::Result<()>) -> Result<()> {
    let path = &destination(path)?;
    remove_orphans(parent_of(path))?;
    let mut file = NewFile::create(path)?;
    fill(&mut file).map_err(Error::io("write", path))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::faults::tests::with_faults;

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn every_operation_may_fail_and_the_file_is_the_old_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let new = vec![7; 200_000];
        let write = || {
            write_atomically(&path, |to| {
                new.chunks(1000).try_for_each(|part| to.write_all(part))
            })
        };
        let old = || fs::write(&path, b"old").unwrap();

        let (written, operations) = with_faults("", write);
        written.unwrap();
        let kinds: Vec<&str> = operations.iter().map(|o| o.split(' ').next().unwrap()).collect();
        assert_eq!(kinds[0], "create");
        assert!(kinds.iter().filter(|kind| **kind == "write").count() > 3);
        assert_eq!(kinds[kinds.len() - 3..], ["sync", "rename", "sync-folder"]);

        for error in ["ENOSPC", "EIO"] {
            for at in 1..=operations.len() {
                old();
                let (written, _) = with_faults(&format!("{error}@{at}"), write);
                let failure = written.unwrap_err().to_string();
                assert!(failure.contains("os error") && failure.contains(folder.path().to_str().unwrap()));
                let is_named = at == operations.len();
                let expected = if is_named { &new[..] } else { b"old" };
                assert_eq!(
                    fs::read(&path).unwrap(),
                    expected,
                    "{error} at {}",
                    operations[at - 1]
                );
                assert_eq!(files(folder.path()), 1, "{error} at {}", operations[at - 1]);
            }
        }
        for at in 1..=operations.len() {
            old();
            with_faults(&format!("short@{at}"), write).0.unwrap();
            assert_eq!(fs::read(&path).unwrap(), new, "short at {}", operations[at - 1]);
        }
    }

    #[test]
    fn what_cannot_be_made_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_atomically(&path, |to| to.write_all(b"old")).unwrap();
        let failure = write_atomically(&path, |to| {
            to.write_all(b"new")?;
            Err(io::Error::other("planted"))
        });
        assert!(failure.unwrap_err().to_string().contains("planted"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(files(folder.path()), 1);
    }

    #[test]
    fn links_stay_and_what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/x"), b"old").unwrap();
        std::os::unix::fs::symlink("elsewhere/x", at("link")).unwrap();
        std::os::unix::fs::symlink("nothing", at("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        let write = |name: &str| write_atomically(&at(name), |to| to.write_all(b"new"));
        write("link").unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read(at("elsewhere/x")).unwrap(), b"new");
        for (name, why) in [
            ("elsewhere", "a folder"),
            ("socket", "a device"),
            ("dangling", "follow the link"),
        ] {
            let failure = write(name).unwrap_err().to_string();
            assert!(failure.contains(why) && failure.contains(name), "{failure}");
        }
        assert_eq!((files(folder.path()), files(&at("elsewhere"))), (4, 1));
    }

    #[test]
    fn many_writers_of_a_folder_take_no_file_of_the_others_for_an_orphan() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = folder.path().join(format!("file{writer}"));
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_atomically(&path, |to| to.write_all(b"whole")).unwrap();
                    }
                });
            }
        });
        assert_eq!(files(folder.path()), 4);
    }

    #[test]
    fn orphans_are_removed_and_files_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("{PARTIAL}abc")), b"half").unwrap();
        fs::write(folder.path().join("whole"), b"whole").unwrap();
        let mut growing = NewFile::create(&folder.path().join("growing")).unwrap();
        remove_orphans(folder.path()).unwrap();
        assert_eq!(files(folder.path()), 2);
        growing.write_all(b"grown").unwrap();
        growing.commit().unwrap();
        assert_eq!(fs::read(folder.path().join("growing")).unwrap(), b"grown");
    }
}
