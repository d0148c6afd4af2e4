//! NCCL's C functions: here what they share, errors and groups.
//!
//! Pointers are the caller's: handles and numbers to be written, and strings, are where they are said to be.

mod calls;
mod comms;
mod join;

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use self::join::wait_for_all;
use super::collective::Call;
use crate::rules::Rule;
use crate::sim::{Handle, Locked, Sim};

/// 2.27.7, as ncclGetVersion says it.
const VERSION: c_int = 22_707;

/// What a call ends with; why it failed is for ncclGetLastError.
type Answer = Result<(), (Outcome, String)>;

/// The calls that a thread has made since ncclGroupStart.
#[derive(Default)]
struct OpenGroup {
    depth: usize,
    calls: Vec<(Handle, Handle, Call)>,
    joined: Vec<Handle>,
}

thread_local! {
    static GROUP: RefCell<OpenGroup> = RefCell::default();
}

fn refuse<T>(outcome: Outcome, why: impl Into<String>) -> Result<T, (Outcome, String)> {
    Err((outcome, why.into()))
}

fn answer(call: impl FnOnce(&mut Locked) -> Answer) -> c_int {
    crate::wait::enter();
    let mut sim = Sim::lock();
    match call(&mut sim) {
        Ok(()) => Outcome::ncclSuccess as c_int,
        Err((outcome, why)) => {
            if outcome != Outcome::ncclInProgress {
                sim.nccl.last_error = CString::new(why).unwrap_or_default();
            }
            outcome as c_int
        }
    }
}

/// Writes an answer through a pointer of the program's.
///
/// # Safety
///
/// `to` is null or points to room for a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return refuse(Outcome::ncclInvalidArgument, "a null pointer");
    }
    // SAFETY: not null; the caller vouches for the rest.
    unsafe { to.write(value) };
    Ok(())
}

fn checked(sim: &mut Sim, comm: *mut c_void) -> Result<Handle, (Outcome, String)> {
    let handle = comm as Handle;
    if sim.nccl.comms.contains_key(&handle) {
        return Ok(handle);
    }
    let text = format!("a communicator that does not exist (any more): {handle:#x}");
    sim.report(Rule::DeadHandle, text.clone());
    refuse(Outcome::ncclInvalidArgument, text)
}

/// # Safety
///
/// `version` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller vouches for it.
    answer(|_| unsafe { put(version, VERSION) })
}

/// `const char* ncclGetErrorString(ncclResult_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(outcome: c_int) -> *const c_char {
    const TEXTS: [(Outcome, &std::ffi::CStr); 8] = [
        (Outcome::ncclSuccess, c"no error"),
        (Outcome::ncclUnhandledCudaError, c"unhandled cuda error"),
        (Outcome::ncclSystemError, c"unhandled system error"),
        (Outcome::ncclInternalError, c"internal error"),
        (Outcome::ncclInvalidArgument, c"invalid argument"),
        (Outcome::ncclInvalidUsage, c"invalid usage"),
        (
            Outcome::ncclRemoteError,
            c"remote process exited or there was a network error",
        ),
        (Outcome::ncclInProgress, c"NCCL operation in progress"),
    ];
    let found = TEXTS.iter().find(|(known, _)| *known as c_int == outcome);
    found.map_or(c"unknown result code", |(_, text)| text).as_ptr()
}

/// `const char* ncclGetLastError(ncclComm_t)`: valid until the next failure.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(_comm: *mut c_void) -> *const c_char {
    Sim::lock().nccl.last_error.as_ptr()
}

/// `ncclResult_t ncclGroupStart(void)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> c_int {
    GROUP.with_borrow_mut(|group| group.depth += 1);
    Outcome::ncclSuccess as c_int
}

/// `ncclResult_t ncclGroupEnd(void)`: the calls since the outermost ncclGroupStart become one operation for each
/// communicator and stream.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> c_int {
    answer(|sim| {
        let ended = GROUP.with_borrow_mut(|group| {
            group.depth = group.depth.checked_sub(1)?;
            Some(if group.depth == 0 {
                std::mem::take(group)
            } else {
                OpenGroup::default()
            })
        });
        let Some(ended) = ended else {
            return refuse(Outcome::ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
        };
        let mut calls = ended.calls;
        while let Some((comm, stream, _)) = calls.first() {
            let (comm, stream) = (*comm, *stream);
            let together = |other: &(Handle, Handle, Call)| (other.0, other.1) == (comm, stream);
            let (group, rest): (Vec<_>, Vec<_>) = calls.into_iter().partition(together);
            calls = rest;
            let group = group.into_iter().map(|(_, _, call)| call).collect();
            sim.enqueue_group(comm, stream, group);
        }
        ended
            .joined
            .into_iter()
            .try_for_each(|comm| wait_for_all(sim, comm))
    })
}
