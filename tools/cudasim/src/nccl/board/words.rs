//! The words of a board: shared memory as atomic numbers.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

/// The first words of a file, mapped.
pub(super) struct Words {
    start: *const AtomicU64,
    count: usize,
}

// SAFETY: atomics may be used from any thread; the mapping belongs to this value alone.
unsafe impl Send for Words {}

impl Words {
    /// Maps them, all 0 in a new file. A file that others have is made longer, never shorter.
    pub(super) fn map(file: &File, count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<AtomicU64>();
        if file.metadata()?.len() < bytes as u64 {
            // The end of the last word is always 0: no number is that large.
            file.write_all_at(&[0], bytes as u64 - 1)?;
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that is at least as long.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast_const().cast();
        Ok(Self { start, count })
    }

    pub(super) fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: in the mapping, whose pages are aligned; nobody makes the file shorter.
        unsafe { &*self.start.add(index) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<AtomicU64>();
        // SAFETY: what `map` has mapped; references to it end with `self`.
        unsafe { libc::munmap(self.start.cast_mut().cast(), bytes) };
    }
}
