//! Collectives and transfers.

use std::ffi::{c_int, c_void};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use super::join::is_complete;
use super::{Answer, GROUP, answer, checked, refuse};
use crate::api::checked_stream;
use crate::faults::{Call as Fault, Course};
use crate::nccl::arithmetic::{Element, Reduction};
use crate::nccl::collective::{Call, Function};
use crate::rules::Rule;
use crate::sim::{Handle, Sim};

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
        let mut call = Call {
            function,
            count: request.count,
            element,
            from: gives.then_some(request.from as u64),
            to: gets.then_some(request.to as u64),
            rank,
            ranks,
            lost: false,
        };
        let stream = checked_stream(sim, request.stream as usize)
            .or_else(|_| refuse(Outcome::ncclInvalidArgument, "the stream"))?;
        check(sim, &call, comm, stream)?;
        match sim.faults.count(Fault::Collective) {
            Some(Course::Fails) => {
                // The rank's part never happens, which shows later, and to the others as the loss of a peer.
                let mine = sim.nccl.comms.get_mut(&comm).expect("checked above");
                mine.error = Outcome::ncclSystemError;
                sim.fail(clique, Outcome::ncclRemoteError);
                if let Some(board) = &sim.nccl.cliques[&clique].board {
                    board.fail(rank);
                }
                return Ok(());
            }
            Some(Course::Hangs) => call.lost = true,
            None => {}
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
