//! The file of a board: where it lies, who holds it, what becomes of one that nobody holds.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MOST_RANKS;

/// What the names of boards begin with.
const PREFIX: &str = "cudasim-nccl-";

/// The byte that is locked for rank 0.
const LOCKS: i64 = 1 << 61;

/// A board that nobody holds may be one that is just being made. After this long it is not.
const MAKING: Duration = Duration::from_secs(60);

/// Where boards lie: in shared memory, or where temporary files do.
fn folder() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.into()
    } else {
        std::env::temp_dir()
    }
}

/// Opens a board, or makes it.
pub(super) fn open(name: &str) -> io::Result<(PathBuf, File)> {
    let folder = folder();
    sweep(&folder);
    let path = folder.join(format!("{PREFIX}{name}"));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)?;
    Ok((path, file))
}

/// Removes boards whose processes have all ended.
fn sweep(folder: &Path) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in files.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let modified = entry.metadata().and_then(|found| found.modified()).ok();
        let age = modified.and_then(|time| time.elapsed().ok());
        // Another user's cannot be opened, and is left alone.
        let file = OpenOptions::new().read(true).write(true).open(entry.path());
        if let (Some(age), Ok(file)) = (age, file)
            && age > MAKING
            && (0..MOST_RANKS).all(|rank| !is_held(&file, rank))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Holds a rank's byte until this process ends or closes the file; false where another process holds it.
pub(super) fn hold(file: &File, rank: usize) -> io::Result<bool> {
    match control(file, libc::F_OFD_SETLK, rank) {
        Ok(_) => Ok(true),
        Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(why) => Err(why),
    }
}

/// Whether another process holds a rank's byte.
pub(super) fn is_held(file: &File, rank: usize) -> bool {
    // A question that fails is no proof of death.
    control(file, libc::F_OFD_GETLK, rank).is_ok_and(|kind| kind != libc::F_UNLCK)
}

/// Asks for a lock, or about it: the kind that is said back.
fn control(file: &File, command: libc::c_int, rank: usize) -> io::Result<libc::c_int> {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS + rank as i64,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: a descriptor that is open, and a lock of the kernel's form, which it may write to.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        0 => Ok(libc::c_int::from(lock.l_type)),
        _ => Err(io::Error::last_os_error()),
    }
}
