//! Communicators: leaving, what can be asked of them.

use std::ffi::{c_int, c_void};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use super::join::{is_complete, is_hopeless};
use super::{Answer, answer, checked, put, refuse};
use crate::nccl::Comm;
use crate::sim::{Handle, Locked, Sim};

/// Takes a communicator away; what is under way on it ends. The last one ends the clique.
fn end(sim: &mut Sim, comm: Handle) {
    let Some(gone) = sim.nccl.comms.remove(&comm) else {
        return;
    };
    gone.groups.iter().for_each(|group| group.finish());
    if let Some(clique) = sim.nccl.cliques.get_mut(&gone.clique) {
        // Whoever comes to a meeting now waits there in vain; the memory of who has left is not touched any more.
        for party in clique.meetings.values_mut().flatten() {
            party.take_if(|party| party.group.is_done());
        }
    }
    let board = sim
        .nccl
        .cliques
        .get(&gone.clique)
        .and_then(|clique| clique.board.as_ref());
    if let Some(board) = board {
        board.leave(gone.rank);
    }
    if !sim.nccl.comms.values().any(|other| other.clique == gone.clique) {
        sim.nccl.cliques.remove(&gone.clique);
    }
    sim.changed();
}

/// Waits until a communicator's calls are over.
fn flush(sim: &mut Locked, name: &str, comm: Handle) -> Answer {
    let quiet = |sim: &Sim| {
        let comm = sim.nccl.comms.get(&comm);
        comm.is_none_or(|comm| comm.groups.iter().all(|group| group.is_done()))
    };
    if Sim::wait(sim, name, quiet) {
        Ok(())
    } else {
        refuse(Outcome::ncclSystemError, "calls of the communicator never end")
    }
}

/// `ncclResult_t ncclCommFinalize(ncclComm_t)`: returns when all calls are over.
#[unsafe(no_mangle)]
pub extern "C" fn ncclCommFinalize(comm: *mut c_void) -> c_int {
    answer(|sim| {
        let comm = checked(sim, comm)?;
        flush(sim, "ncclCommFinalize", comm)
    })
}

/// `ncclResult_t ncclCommDestroy(ncclComm_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclCommDestroy(comm: *mut c_void) -> c_int {
    answer(|sim| {
        let comm = checked(sim, comm)?;
        let flushed = flush(sim, "ncclCommDestroy", comm);
        end(sim, comm);
        flushed
    })
}

/// `ncclResult_t ncclCommAbort(ncclComm_t)`: what is under way ends here, undone. Other ranks are not told.
#[unsafe(no_mangle)]
pub extern "C" fn ncclCommAbort(comm: *mut c_void) -> c_int {
    answer(|sim| {
        let comm = checked(sim, comm)?;
        end(sim, comm);
        Ok(())
    })
}

/// # Safety
///
/// `error` points to room for a result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: *mut c_void, error: *mut c_int) -> c_int {
    answer(|sim| {
        let comm = checked(sim, comm)?;
        // Time passes between two questions.
        sim.step();
        let found = match sim.nccl.comms[&comm].error {
            Outcome::ncclSuccess if is_hopeless(sim, comm) => Outcome::ncclRemoteError,
            Outcome::ncclSuccess if !is_complete(sim, comm) => Outcome::ncclInProgress,
            error => error,
        };
        // SAFETY: the caller vouches for it.
        unsafe { put(error, found as c_int) }
    })
}

fn fact(comm: *mut c_void, to: *mut c_int, fact: impl FnOnce(&Sim, &Comm) -> usize) -> c_int {
    answer(|sim| {
        let comm = checked(sim, comm)?;
        let found = fact(sim, &sim.nccl.comms[&comm]);
        // SAFETY: the caller of the C function vouches for it.
        unsafe { put(to, found as c_int) }
    })
}

/// # Safety
///
/// `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommCount(comm: *mut c_void, count: *mut c_int) -> c_int {
    fact(comm, count, |sim, comm| {
        sim.nccl.cliques[&comm.clique].members.len()
    })
}

/// # Safety
///
/// `device` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommCuDevice(comm: *mut c_void, device: *mut c_int) -> c_int {
    fact(comm, device, |_, comm| comm.device)
}

/// # Safety
///
/// `rank` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommUserRank(comm: *mut c_void, rank: *mut c_int) -> c_int {
    fact(comm, rank, |_, comm| comm.rank)
}
