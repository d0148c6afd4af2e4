//! What the simulated libraries (cuDNN, cuBLASLt) are built on: work on a stream, with the memory that it touches said in
//! advance.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use crate::api::current;
use crate::faults::Call;
use crate::sim::{Action, Handle, Sim};

/// A range of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// One call of a library.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) reads: Vec<Access>,
    pub(crate) writes: Vec<Access>,
    /// Does it, on host memory: device addresses are host addresses. Called again whenever a captured graph is replayed.
    pub(crate) run: Box<dyn Fn() + Send + Sync>,
}

/// Puts a call on a stream. It counts as a launch.
pub(crate) fn enqueue(stream: usize, work: Work) -> Result<(), CUresult> {
    crate::wait::enter();
    let mut sim = Sim::lock();
    if let Some(error) = sim.broken(current()) {
        return Err(error);
    }
    sim.faults.meet(Call::Launch)?;
    let stream: Handle = crate::api::checked_stream(&mut sim, stream)?;
    crate::api::check_launch_device(&mut sim, stream, &work.name)?;
    let name = work.name.clone();
    sim.enqueue(stream, &name, Action::Library(Arc::new(work)));
    Ok(())
}

/// Whether a library can be started: a context is current, and the start is not made to fail.
pub(crate) fn can_start() -> bool {
    crate::wait::enter();
    current().is_some() && Sim::lock().faults.meet(Call::Other).is_ok()
}
