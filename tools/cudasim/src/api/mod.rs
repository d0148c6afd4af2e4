//! The C functions that programs call: checks of arguments and contexts, then the machine of `sim.rs`.

mod device;
mod memory;
mod nvrtc;
mod pool;
mod stream;
mod work;

use std::cell::Cell;
use std::ffi::c_int;

use cudarc::driver::sys::CUresult;

use crate::faults::Call;
use crate::rules::Rule;
use crate::sim::{Handle, Locked, Sim};

/// What a call ends with.
type Answer = Result<(), CUresult>;

thread_local! {
    /// The device whose primary context is current on this thread.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The device of the calling thread's context.
pub(crate) fn current() -> Option<usize> {
    CURRENT.get()
}

pub(crate) fn set_current(device: Option<usize>) {
    CURRENT.set(device);
}

/// The device of the current context, or what the driver says without one.
fn need_context(sim: &mut Sim, name: &str) -> Result<usize, CUresult> {
    current().ok_or_else(|| {
        sim.report(Rule::NoContext, format!("{name} without a current context"));
        CUresult::CUDA_ERROR_INVALID_CONTEXT
    })
}

/// Runs a call: counted, made to fail where that is planned, and refused once the context is broken.
fn answer(kind: Call, call: impl FnOnce(&mut Locked) -> Answer) -> c_int {
    crate::wait::enter();
    let mut sim = Sim::lock();
    let outcome = match sim.broken(current()) {
        Some(error) => Err(error),
        None => sim.faults.meet(kind).and_then(|()| call(&mut sim)),
    };
    // What the call itself broke, it says itself.
    match (outcome, sim.broken(current())) {
        (Ok(()), Some(error)) | (Err(error), _) => error as c_int,
        (Ok(()), None) => 0,
    }
}

/// Runs a call that ends something: it works on broken contexts, too, and is never made to fail.
fn answer_always(call: impl FnOnce(&mut Locked) -> Answer) -> c_int {
    crate::wait::enter();
    match call(&mut Sim::lock()) {
        Ok(()) => 0,
        Err(error) => error as c_int,
    }
}

/// The stream that a handle means.
pub(crate) fn checked_stream(sim: &mut Sim, handle: usize) -> Result<Handle, CUresult> {
    if handle <= 2 {
        let text = "the default stream was used: it is not simulated, and a program with several streams has no use for it";
        sim.report(Rule::DeadHandle, text.into());
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    if sim.streams.contains_key(&handle) {
        return Ok(handle);
    }
    sim.report(
        Rule::DeadHandle,
        format!("a stream that does not exist (any more): {handle:#x}"),
    );
    Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

/// Launches, of kernels and by libraries, go to the current context's device.
pub(crate) fn check_launch_device(sim: &mut Sim, stream: Handle, name: &str) -> Answer {
    let current = need_context(sim, name)?;
    let device = sim.streams[&stream].device;
    if current == device {
        return Ok(());
    }
    let text =
        format!("{name}: a stream of device {device} while the context of device {current} is current");
    sim.report(Rule::WrongDevice, text);
    Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

/// Writes an answer through a pointer of the program's.
///
/// # Safety
///
/// `to` is null or points to room for a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null; the caller vouches for the rest.
    unsafe { to.write(value) };
    Ok(())
}
