//! A file in memory that may be taken away meanwhile.
//!
//! A page of a map that the file no longer has, or that its disk cannot read, is a SIGBUS at whatever instruction
//! touches it first: in a decoder, in a copy, in C. There is no way out of those but to go on. So the handler puts a page
//! of zeros in the place of the one that is lost, remembers that it did, and returns; the reader finishes with zeros, and
//! asks [`Map::confirm`] before it believes anything. That also asks the file for its length: what a file loses within
//! its last page is zeros without a signal.
//!
//! Why not otherwise: looking at the length before each read leaves the time between the look and the use. A copy out of
//! the map under the handler would close it, and cost a pass over every byte. Jumping out of the handler would leave
//! whatever was interrupted half done. A file that is removed or replaced by rename keeps its bytes for as long as it is
//! mapped: nothing is lost, and nothing is said.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A whole file, mapped to be read.
#[derive(Debug)]
pub struct Map {
    bytes: Mmap,
    file: File,
    guard: &'static Guard,
}

/// Where a map lies. Never freed, as a handler may look at it at any time; a map costs 40 bytes for good.
#[derive(Debug)]
struct Guard {
    start: usize,
    /// 0 once the map is gone.
    len: AtomicUsize,
    lost: AtomicBool,
    next: *const Guard,
}

// SAFETY: `next` is written once, before the guard is shared, and points to another guard, which is never freed.
unsafe impl Sync for Guard {}

/// The newest guard; each leads to the one before.
static GUARDS: AtomicPtr<Guard> = AtomicPtr::new(ptr::null_mut());

impl Guard {
    /// Makes a map known to the handler.
    fn publish(bytes: &[u8]) -> &'static Self {
        let mut newest = GUARDS.load(Ordering::Acquire);
        let guard = Box::into_raw(Box::new(Self {
            start: bytes.as_ptr() as usize,
            len: AtomicUsize::new(bytes.len()),
            lost: AtomicBool::new(false),
            next: newest,
        }));
        while let Err(other) =
            GUARDS.compare_exchange_weak(newest, guard, Ordering::AcqRel, Ordering::Acquire)
        {
            newest = other;
            // SAFETY: nobody else has seen the guard yet.
            unsafe { (*guard).next = newest };
        }
        // SAFETY: it is never freed, and not changed any more but through its atomics.
        unsafe { &*guard }
    }
}

impl Map {
    /// Maps a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        Self::of(file, path)
    }

    /// Maps a file that is open; `path` is for the errors.
    pub fn of(file: File, path: &Path) -> Result<Self> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(handler::install);
        // SAFETY: the map is only read. Another process may write to the file or shorten it meanwhile: what is lost
        // reads as zeros and is told by `confirm`; what is written over is wrong like a damaged disk's bytes, which the
        // readers of all formats expect.
        let bytes = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let guard = Guard::publish(&bytes);
        Ok(Self { bytes, file, guard })
    }

    /// Whether everything that was read so far was the file's; to be asked after bytes have been used. `path` is for the
    /// error, which names the file.
    pub fn confirm(&self, path: &Path) -> Result<()> {
        let len = self.file.metadata().map_err(Error::io("examine", path))?.len();
        if len < self.bytes.len() as u64 {
            return Err(shortened(path, self.bytes.len() as u64, len));
        }
        if self.guard.lost.load(Ordering::Acquire) {
            return Err(Error::invalid_hint(
                path.display(),
                format_args!("the {} bytes that it had when it was opened", self.bytes.len()),
                "parts that cannot be read any more",
                "its disk or file system fails, or it was shortened meanwhile; restore it, then go on (train --resume)",
            ));
        }
        Ok(())
    }
}

/// A file that has become shorter since it was opened.
pub(super) fn shortened(path: &Path, expected: u64, found: u64) -> Error {
    Error::invalid_hint(
        path.display(),
        format_args!("the {expected} bytes that it had when it was opened"),
        format_args!("{found} bytes"),
        "it was shortened or replaced while it was in use; restore it, then go on (train --resume)",
    )
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.guard.len.store(0, Ordering::Release);
    }
}

/// What happens on SIGBUS. Only what may be called in a signal handler is: loads, stores, `mmap`.
mod handler {
    use super::{GUARDS, Guard};
    use std::cell::UnsafeCell;
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static PAGE: AtomicUsize = AtomicUsize::new(4096);

    struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

    // SAFETY: written once, by `install`, before the handler that reads it can run.
    unsafe impl Sync for Previous {}

    static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));

    /// Called once.
    pub(super) fn install() {
        // SAFETY: plain calls; the pointers are to live values of the right types, and a zeroed `sigaction` is a valid
        // one. The old action is stored before the new one is set.
        unsafe {
            if let Ok(page) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) {
                PAGE.store(page, Ordering::Relaxed);
            }
            libc::sigaction(libc::SIGBUS, ptr::null(), (*PREVIOUS.0.get()).as_mut_ptr());
            let mut action: libc::sigaction = std::mem::zeroed();
            let entry: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
            action.sa_sigaction = entry as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    }

    extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a valid `siginfo_t`, which has an address for SIGBUS.
        let address = unsafe { (*info).si_addr() } as usize;
        if !guard_of(address).is_some_and(|guard| replace_page(guard, address)) {
            // Not ours: the instruction runs again under the handler that was there before.
            // SAFETY: `install` has filled it.
            unsafe { libc::sigaction(libc::SIGBUS, (*PREVIOUS.0.get()).as_ptr(), ptr::null_mut()) };
        }
    }

    fn guard_of(address: usize) -> Option<&'static Guard> {
        let mut next = GUARDS.load(Ordering::Acquire).cast_const();
        // SAFETY: guards are never freed, and each was complete before it could be found.
        while let Some(guard) = unsafe { next.as_ref() } {
            let len = guard.len.load(Ordering::Acquire);
            if (guard.start..guard.start + len).contains(&address) {
                return Some(guard);
            }
            next = guard.next;
        }
        None
    }

    /// Zeros in place of the page at `address`.
    fn replace_page(guard: &Guard, address: usize) -> bool {
        let page = PAGE.load(Ordering::Relaxed);
        guard.lost.store(true, Ordering::Release);
        // SAFETY: the page belongs to a map that is read and never written, and stays part of it: unmapping the map
        // unmaps it, too. `mmap` is a plain system call; errno is put back.
        unsafe {
            let errno = *libc::__errno_location();
            let placed = libc::mmap(
                (address / page * page) as *mut libc::c_void,
                page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            *libc::__errno_location() = errno;
            placed != libc::MAP_FAILED
        }
    }
}

#[cfg(test)]
mod tests;
