//! NCCL's C functions.
//!
//! Pointers are the caller's: handles and numbers to be written, and strings, are where they are said to be.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use super::arithmetic::{Element, Reduction};
use super::collective::{Call, Function};
use super::{Clique, Comm};
use crate::api::{checked_stream, current};
use crate::faults::Call as Fault;
use crate::rules::Rule;
use crate::sim::{Handle, Locked, Sim};

/// 2.27.7, as ncclGetVersion says it.
const VERSION: c_int = 22_707;

/// Bytes of a ncclUniqueId.
const ID_BYTES: usize = 128;

/// Marks an id as one of this process.
const ID_MAGIC: u64 = 0x6363_6c20_7369_6d20;

/// What a call ends with; why it failed is for ncclGetLastError.
type Answer = Result<(), (Outcome, String)>;

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

/// # Safety
///
/// `id` points to room for 128 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    answer(|sim| {
        sim.nccl.next_clique += 1;
        let mut words = [0; ID_BYTES / 8];
        words[..3].copy_from_slice(&[ID_MAGIC, u64::from(std::process::id()), sim.nccl.next_clique]);
        // SAFETY: the caller vouches for it.
        unsafe { put(id, UniqueId(words)) }
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
        called: std::collections::BTreeMap::new(),
        meetings: std::collections::BTreeMap::new(),
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

fn is_complete(sim: &Sim, comm: Handle) -> bool {
    // A communicator that another thread has aborted is waited for no longer.
    let clique = sim.nccl.comms.get(&comm).map(|comm| comm.clique);
    clique.is_none_or(|clique| sim.nccl.cliques[&clique].is_complete())
}

/// Waits until all ranks have joined.
fn wait_for_all(sim: &mut Locked, comm: Handle) -> Answer {
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
        sim.nccl.next_clique += 1;
        let mut id = UniqueId([0; ID_BYTES / 8]);
        id.0[..3].copy_from_slice(&[ID_MAGIC, u64::from(std::process::id()), sim.nccl.next_clique]);
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
            crate::api::set_current(Some(device));
            let comm = join(sim, &id, count, rank, false)?;
            // SAFETY: the caller vouches for the room.
            unsafe { put(comms.add(rank as usize), comm as *mut c_void)? };
        }
        Ok(())
    });
    crate::api::set_current(before);
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

/// What the C functions are given.
struct Request {
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
}

/// Checks a call as it is made, and puts it on its stream or into the open group.
fn call(request: &Request, function: Option<Function>) -> c_int {
    answer(|sim| {
        let invalid = |why: String| refuse(Outcome::ncclInvalidArgument, why);
        let comm = checked(sim, request.comm)?;
        let (device, clique, rank) = {
            let comm = &sim.nccl.comms[&comm];
            (comm.device, comm.clique, comm.rank)
        };
        if let Some(error) = sim.broken(Some(device)) {
            return refuse(Outcome::ncclUnhandledCudaError, format!("{error:?}"));
        }
        let Some(function) = function else {
            return invalid("an operator that NCCL or the simulator does not have".into());
        };
        let Some(element) = Element::of(request.element as u32) else {
            return invalid(format!("element type {} is not simulated", request.element));
        };
        let ranks = sim.nccl.cliques[&clique].members.len();
        let (root, gives, gets) = match function {
            Function::Reduce { root, .. } => (root, true, rank == root),
            Function::Broadcast { root } => (root, rank == root, true),
            Function::Send(peer) => (peer, true, false),
            Function::Receive(peer) => (peer, false, true),
            Function::AllReduce(_) | Function::ReduceScatter(_) | Function::AllGather => (0, true, true),
        };
        if root >= ranks {
            return invalid(format!("rank {root} of {ranks}"));
        }
        if request.count == 0 {
            return Ok(());
        }
        let call = Call {
            function,
            count: request.count,
            element,
            from: gives.then_some(request.from as u64),
            to: gets.then_some(request.to as u64),
            rank,
            ranks,
        };
        let stream = checked_stream(sim, request.stream as usize)
            .or_else(|_| refuse(Outcome::ncclInvalidArgument, "the stream"))?;
        check(sim, &call, comm, stream)?;
        if sim.faults.meet(Fault::Collective).is_err() {
            // The rank's part never happens, which shows later, and to the others as the loss of a peer.
            sim.fail(clique, Outcome::ncclRemoteError);
            let comm = sim.nccl.comms.get_mut(&comm).expect("checked above");
            comm.error = Outcome::ncclSystemError;
            return Ok(());
        }
        let in_group = GROUP.with_borrow_mut(|group| {
            if group.depth > 0 {
                group.calls.push((comm, stream, call.clone()));
            }
            group.depth > 0
        });
        if !in_group {
            sim.enqueue_group(comm, stream, vec![call]);
        }
        Ok(())
    })
}

fn check(sim: &mut Sim, call: &Call, comm: Handle, stream: Handle) -> Answer {
    let name = call.name();
    let device = sim.nccl.comms[&comm].device;
    if !is_complete(sim, comm) {
        let text = format!("{name} before all ranks have joined the communicator");
        sim.report(Rule::CommNotReady, text.clone());
        return refuse(Outcome::ncclInvalidArgument, text);
    }
    let of_stream = sim.streams[&stream].device;
    if of_stream != device {
        let text = format!("{name}: a stream of device {of_stream}, a communicator of device {device}");
        sim.report(Rule::WrongDevice, text.clone());
        return refuse(Outcome::ncclInvalidUsage, text);
    }
    if sim.streams[&stream].capture.is_some() {
        return refuse(
            Outcome::ncclInvalidUsage,
            "the simulator does not capture collectives",
        );
    }
    let buffers = [(call.from, call.bytes_read()), (call.to, call.bytes_written())];
    for (address, bytes) in buffers {
        let Some(address) = address else {
            continue;
        };
        let found = sim.memory.holding(address, bytes as u64).map(|a| a.device);
        let (rule, why) = match found {
            Ok(holder) if holder == device => continue,
            Ok(holder) => (
                Rule::WrongDevice,
                format!("memory of device {holder}, a communicator of device {device}"),
            ),
            Err(why) if sim.memory.is_device(address) => (Rule::CopyRange, why),
            Err(why) => (Rule::NotDeviceMemory, why),
        };
        let text = format!("{name}: {why}");
        sim.report(rule, text.clone());
        return refuse(Outcome::ncclInvalidArgument, text);
    }
    if !call.in_place_is_legal() {
        let text = format!("{call}: source and destination overlap");
        sim.report(Rule::CollectiveOverlap, text.clone());
        return refuse(Outcome::ncclInvalidArgument, text);
    }
    Ok(())
}

fn rank(number: c_int) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// `ncclResult_t ncclAllReduce(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    operator: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    call(&request, Reduction::of(operator as u32).map(Function::AllReduce))
}

/// `ncclResult_t ncclReduce(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, int, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    operator: c_int,
    root: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    let root = rank(root);
    call(
        &request,
        Reduction::of(operator as u32).map(|reduction| Function::Reduce { reduction, root }),
    )
}

/// `ncclResult_t ncclReduceScatter(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclReduceScatter(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    operator: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    call(
        &request,
        Reduction::of(operator as u32).map(Function::ReduceScatter),
    )
}

/// `ncclResult_t ncclBroadcast(const void*, void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclBroadcast(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    root: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    call(&request, Some(Function::Broadcast { root: rank(root) }))
}

/// `ncclResult_t ncclAllGather(const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclAllGather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    call(&request, Some(Function::AllGather))
}

/// `ncclResult_t ncclSend(const void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclSend(
    from: *const c_void,
    count: usize,
    element: c_int,
    peer: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let to = std::ptr::null_mut();
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    call(&request, Some(Function::Send(rank(peer))))
}

/// `ncclResult_t ncclRecv(void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn ncclRecv(
    to: *mut c_void,
    count: usize,
    element: c_int,
    peer: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let from = std::ptr::null();
    let request = Request {
        from,
        to,
        count,
        element,
        comm,
        stream,
    };
    call(&request, Some(Function::Receive(rank(peer))))
}
