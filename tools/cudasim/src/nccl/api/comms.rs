//! Communicators: ids, joining, leaving, what can be asked of them.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use super::{Answer, GROUP, answer, checked, put, refuse};
use crate::api::{current, set_current};
use crate::faults::Call as Fault;
use crate::nccl::{Clique, Comm};
use crate::rules::Rule;
use crate::sim::{Handle, Locked, Sim};

/// Bytes of a ncclUniqueId.
const ID_BYTES: usize = 128;

/// Marks an id as one of this process.
const ID_MAGIC: u64 = 0x6363_6c20_7369_6d20;

/// The beginning of ncclConfig_t: what is read of it.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// ncclUniqueId, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u64; ID_BYTES / 8]);

/// An id for a communicator that nobody has.
fn new_id(sim: &mut Sim) -> UniqueId {
    sim.nccl.next_clique += 1;
    let mut words = [0; ID_BYTES / 8];
    words[..3].copy_from_slice(&[ID_MAGIC, u64::from(std::process::id()), sim.nccl.next_clique]);
    UniqueId(words)
}

/// # Safety
///
/// `id` points to room for 128 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    answer(|sim| {
        let made = new_id(sim);
        // SAFETY: the caller vouches for it.
        unsafe { put(id, made) }
    })
}

/// Makes a rank a member of its clique. The communicator can be used once all have joined.
fn join(
    sim: &mut Sim,
    id: &UniqueId,
    ranks: c_int,
    rank: c_int,
    non_blocking: bool,
) -> Result<Handle, (Outcome, String)> {
    let invalid = |why: String| refuse(Outcome::ncclInvalidArgument, why);
    let Some(device) = current() else {
        sim.report(
            Rule::NoContext,
            "ncclCommInitRank without a current context".into(),
        );
        return refuse(Outcome::ncclUnhandledCudaError, "no context is current");
    };
    if sim.faults.meet(Fault::Other).is_err() {
        return refuse(Outcome::ncclSystemError, "planned by CUDASIM_FAIL");
    }
    let [magic, process, number] = [id.0[0], id.0[1], id.0[2]];
    if magic != ID_MAGIC {
        return invalid("ncclGetUniqueId has not made this id".into());
    }
    if process != u64::from(std::process::id()) {
        return invalid("the id of another process: the simulator has NCCL within one process only".into());
    }
    let (Ok(ranks), Ok(rank)) = (usize::try_from(ranks), usize::try_from(rank)) else {
        return invalid(format!("rank {rank} of {ranks}"));
    };
    if rank >= ranks {
        return invalid(format!("rank {rank} of {ranks}"));
    }
    let clique = sim.nccl.cliques.entry(number).or_insert_with(|| Clique {
        members: vec![None; ranks],
        called: BTreeMap::new(),
        meetings: BTreeMap::new(),
    });
    if clique.members.len() != ranks || clique.members[rank].is_some() {
        let text = format!(
            "rank {rank} of {ranks} joins a communicator of {} ranks{}",
            clique.members.len(),
            if clique.members.get(rank).is_some_and(Option::is_some) {
                ", which has it already"
            } else {
                ""
            }
        );
        sim.report(Rule::CollectiveMismatch, text.clone());
        return invalid(text);
    }
    let members: Vec<Handle> = clique.members.iter().flatten().copied().collect();
    if members.iter().any(|other| sim.nccl.comms[other].device == device) {
        let text =
            format!("rank {rank} joins on device {device}, which another rank of the communicator has");
        sim.report(Rule::DuplicateDevice, text.clone());
        return refuse(Outcome::ncclInvalidUsage, text);
    }
    let handle = sim.handle();
    sim.nccl.comms.insert(
        handle,
        Comm {
            device,
            clique: number,
            rank,
            error: Outcome::ncclSuccess,
            non_blocking,
            groups: Vec::new(),
        },
    );
    let clique = sim.nccl.cliques.get_mut(&number).expect("made above");
    clique.members[rank] = Some(handle);
    sim.changed();
    Ok(handle)
}

pub(super) fn is_complete(sim: &Sim, comm: Handle) -> bool {
    // A communicator that another thread has aborted is waited for no longer.
    let clique = sim.nccl.comms.get(&comm).map(|comm| comm.clique);
    clique.is_none_or(|clique| sim.nccl.cliques[&clique].is_complete())
}

/// Waits until all ranks have joined.
pub(super) fn wait_for_all(sim: &mut Locked, comm: Handle) -> Answer {
    if sim.nccl.comms[&comm].non_blocking {
        return refuse(Outcome::ncclInProgress, "");
    }
    if Sim::wait(sim, "ncclCommInitRank", |sim| is_complete(sim, comm)) {
        return Ok(());
    }
    refuse(Outcome::ncclSystemError, "other ranks have not joined")
}

fn init(to: *mut *mut c_void, ranks: c_int, id: &UniqueId, rank: c_int, non_blocking: bool) -> c_int {
    answer(|sim| {
        let comm = join(sim, id, ranks, rank, non_blocking)?;
        // SAFETY: the caller of the C function vouches for it.
        unsafe { put(to, comm as *mut c_void)? };
        let in_group = GROUP.with_borrow_mut(|group| {
            if group.depth > 0 {
                group.joined.push(comm);
            }
            group.depth > 0
        });
        if in_group { Ok(()) } else { wait_for_all(sim, comm) }
    })
}

/// # Safety
///
/// `comm` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(
    comm: *mut *mut c_void,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
) -> c_int {
    init(comm, ranks, &id, rank, false)
}

/// # Safety
///
/// As for [`ncclCommInitRank`]; `config` is null or points to a ncclConfig_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut *mut c_void,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> c_int {
    // SAFETY: the caller vouches for it.
    let non_blocking = unsafe { config.as_ref() }.is_some_and(|config| config.blocking == 0);
    init(comm, ranks, &id, rank, non_blocking)
}

/// # Safety
///
/// `comms` points to room for `count` handles, `devices` is null or points to as many numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(
    comms: *mut *mut c_void,
    count: c_int,
    devices: *const c_int,
) -> c_int {
    let before = current();
    let outcome = answer(|sim| {
        let id = new_id(sim);
        for rank in 0..count {
            // SAFETY: the caller vouches for the array.
            let device = if devices.is_null() {
                rank
            } else {
                unsafe { *devices.add(rank as usize) }
            };
            let known = usize::try_from(device)
                .ok()
                .filter(|device| *device < sim.devices);
            let Some(device) = known else {
                return refuse(
                    Outcome::ncclInvalidArgument,
                    format!("there is no device {device}"),
                );
            };
            set_current(Some(device));
            let comm = join(sim, &id, count, rank, false)?;
            // SAFETY: the caller vouches for the room.
            unsafe { put(comms.add(rank as usize), comm as *mut c_void)? };
        }
        Ok(())
    });
    set_current(before);
    outcome
}

/// Takes a communicator away; what is under way on it ends. The last one ends the clique.
fn end(sim: &mut Sim, comm: Handle) {
    let Some(gone) = sim.nccl.comms.remove(&comm) else {
        return;
    };
    gone.groups.iter().for_each(|group| group.finish());
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
