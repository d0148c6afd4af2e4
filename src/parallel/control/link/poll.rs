//! Waiting for several sockets at once.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Wakes the thread that waits.
#[derive(Debug, Clone)]
pub(super) struct Waker(Arc<UnixStream>);

/// The other end of a [`Waker`].
#[derive(Debug)]
pub(super) struct Woken(UnixStream);

/// A waker and its other end.
pub(super) fn waker() -> io::Result<(Waker, Woken)> {
    let (waker, woken) = UnixStream::pair()?;
    waker.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    Ok((Waker(Arc::new(waker)), Woken(woken)))
}

impl Waker {
    pub(super) fn wake(&self) {
        // Full means that it will wake anyway; closed means that nobody waits.
        let _ = (&*self.0).write(&[0]);
    }
}

impl Woken {
    /// Forgets all wakes so far.
    pub(super) fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0).read(&mut bytes), Ok(n) if n == bytes.len()) {}
    }
}

impl AsRawFd for Woken {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Something to read.
    Read,
    /// Something to read, or room to write.
    ReadOrWrite,
}

/// Waits until one of `sockets` is ready, at most `most`; returns which are, in their order.
pub(super) fn wait(sockets: &[(RawFd, Interest)], most: Duration) -> io::Result<Vec<bool>> {
    let mut entries: Vec<libc::pollfd> = sockets
        .iter()
        .map(|(fd, interest)| libc::pollfd {
            fd: *fd,
            events: match interest {
                Interest::Read => libc::POLLIN,
                Interest::ReadOrWrite => libc::POLLIN | libc::POLLOUT,
            },
            revents: 0,
        })
        .collect();
    let milliseconds = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
    let count = libc::nfds_t::try_from(entries.len()).map_err(io::Error::other)?;
    // SAFETY: `entries` is a live array of `count` initialised entries, which the call reads and whose `revents` it
    // writes; descriptors that are not open are reported there, not followed.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), count, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(vec![false; entries.len()]),
            _ => Err(error),
        };
    }
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}
