//! Streams, events, capture and graphs.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUevent_flags, CUresult};

use super::memory::refuse_in_capture;
use super::{Answer, answer, answer_always, check_launch_device, checked_stream, need_context, put};
use crate::faults::Call;
use crate::graph::Capture;
use crate::rules::Rule;
use crate::sim::{Action, Event, Handle, Locked, Sim};

/// # Safety
///
/// `stream` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> c_int {
    answer(Call::Other, |sim| {
        let device = need_context(sim, "cuStreamCreate")?;
        let handle = sim.new_stream(device);
        // SAFETY: the caller vouches for it.
        unsafe { put(stream, handle as *mut c_void) }
    })
}

/// `CUresult cuStreamDestroy_v2(CUstream)`: what is still in its queue is done first.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> c_int {
    answer_always(|sim| {
        let stream = checked_stream(sim, stream as usize)?;
        Sim::drain(sim, stream);
        sim.streams.remove(&stream);
        Ok(())
    })
}

/// Waits for a stream, which must not be captured.
pub(super) fn synchronize(sim: &mut Locked, stream: Handle) -> Answer {
    if sim.streams[&stream].capture.is_some() {
        sim.report(
            Rule::IllegalInCapture,
            "cuStreamSynchronize on a stream that is being captured".into(),
        );
        return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if Sim::synchronize(sim, stream) {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_LAUNCH_FAILED)
    }
}

/// `CUresult cuStreamSynchronize(CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        synchronize(sim, stream)
    })
}

/// `CUresult cuStreamQuery(CUstream)`: an answer of success is as good as a wait (the manual, of unified memory).
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        // Time passes between two questions.
        sim.step();
        if sim.is_idle(stream) {
            synchronize(sim, stream)
        } else {
            Err(CUresult::CUDA_ERROR_NOT_READY)
        }
    })
}

/// For tests: lets the stream go on and answers as [`cuStreamQuery`] does, but the host learns nothing by it: what it does
/// next is still unordered with the stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_stream_query(stream: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        sim.step();
        match sim.is_idle(stream) {
            true => Ok(()),
            false => Err(CUresult::CUDA_ERROR_NOT_READY),
        }
    })
}

fn checked_event(sim: &mut Sim, event: *mut c_void) -> Result<Handle, CUresult> {
    let handle = event as usize;
    if sim.events.contains_key(&handle) {
        return Ok(handle);
    }
    sim.report(
        Rule::DeadHandle,
        format!("an event that does not exist (any more): {handle:#x}"),
    );
    Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

/// # Safety
///
/// `event` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, flags: c_uint) -> c_int {
    answer(Call::Other, |sim| {
        let device = need_context(sim, "cuEventCreate")?;
        let handle = sim.handle();
        let made = Event {
            device,
            is_timed: flags & CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint == 0,
            recorded: None,
            captured: None,
        };
        sim.events.insert(handle, made);
        // SAFETY: the caller vouches for it.
        unsafe { put(event, handle as *mut c_void) }
    })
}

/// `CUresult cuEventDestroy_v2(CUevent)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> c_int {
    answer_always(|sim| {
        let event = checked_event(sim, event)?;
        sim.events.remove(&event);
        Ok(())
    })
}

/// `CUresult cuEventRecord(CUevent, CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        let event = checked_event(sim, event)?;
        let (of_event, of_stream) = (sim.events[&event].device, sim.streams[&stream].device);
        if of_event != of_stream {
            let text = format!("an event of device {of_event} recorded on a stream of device {of_stream}");
            sim.report(Rule::WrongDevice, text);
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        if let Some(capture) = sim.streams[&stream].capture {
            // In a capture an event is an edge of the graph.
            let nodes = sim
                .captures
                .get_mut(&capture)
                .expect("under way")
                .frontier(stream)
                .clone();
            let event = sim.events.get_mut(&event).expect("checked above");
            event.captured = Some((capture, nodes));
            return Ok(());
        }
        let done = Arc::new(AtomicBool::new(false));
        sim.enqueue(stream, "cuEventRecord", Action::Record(Arc::clone(&done)));
        let clock = sim.streams[&stream].clock.clone();
        let event = sim.events.get_mut(&event).expect("checked above");
        event.recorded = Some((done, clock));
        event.captured = None;
        Ok(())
    })
}

/// `CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        let event = checked_event(sim, event)?;
        if let Some((capture, nodes)) = sim.events[&event].captured.clone() {
            // The waiting stream takes part in the capture from here on.
            sim.streams.get_mut(&stream).expect("checked above").capture = Some(capture);
            if let Some(capture) = sim.captures.get_mut(&capture) {
                let frontier = capture.frontier(stream);
                frontier.extend(nodes);
                frontier.sort_unstable();
                frontier.dedup();
            }
            return Ok(());
        }
        // An event that was never recorded is no reason to wait.
        let Some((done, clock)) = sim.events[&event].recorded.clone() else {
            return Ok(());
        };
        if sim.streams[&stream].capture.is_some() {
            sim.report(
                Rule::IllegalInCapture,
                "a captured stream waits for an event from outside".into(),
            );
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        sim.learn(stream, &clock);
        sim.enqueue(stream, "cuStreamWaitEvent", Action::Wait(done));
        Ok(())
    })
}

/// `CUresult cuEventSynchronize(CUevent)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        let event = checked_event(sim, event)?;
        if sim.events[&event].captured.is_some() {
            sim.report(
                Rule::IllegalInCapture,
                "cuEventSynchronize on an event of a capture".into(),
            );
            return Err(CUresult::CUDA_ERROR_CAPTURED_EVENT);
        }
        let Some((done, clock)) = sim.events[&event].recorded.clone() else {
            return Ok(());
        };
        if Sim::wait_for(sim, &done, &clock) {
            Ok(())
        } else {
            Err(CUresult::CUDA_ERROR_LAUNCH_FAILED)
        }
    })
}

/// `CUresult cuEventQuery(CUevent)`: an answer of success is as good as a wait (the manual, of unified memory).
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        let event = checked_event(sim, event)?;
        sim.step();
        match sim.events[&event].recorded.clone() {
            Some((done, _)) if !done.load(Ordering::Relaxed) => Err(CUresult::CUDA_ERROR_NOT_READY),
            Some((done, clock)) => {
                Sim::wait_for(sim, &done, &clock);
                Ok(())
            }
            None => Ok(()),
        }
    })
}

/// # Safety
///
/// `milliseconds` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> c_int {
    answer(Call::Other, |sim| {
        for event in [start, end] {
            let event = checked_event(sim, event)?;
            let event = &sim.events[&event];
            match &event.recorded {
                Some((done, _)) if event.is_timed => {
                    if !done.load(Ordering::Relaxed) {
                        return Err(CUresult::CUDA_ERROR_NOT_READY);
                    }
                }
                _ => return Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
            }
        }
        // A simulated device has no speed.
        // SAFETY: the caller vouches for it.
        unsafe { put(milliseconds, 0.0) }
    })
}

/// `CUresult cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_int) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        if sim.streams[&stream].capture.is_some() {
            sim.report(
                Rule::IllegalInCapture,
                "a capture begins on a stream that is being captured".into(),
            );
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        let handle = sim.handle();
        sim.captures.insert(handle, Capture::new(stream));
        sim.streams.get_mut(&stream).expect("checked above").capture = Some(handle);
        Ok(())
    })
}

/// # Safety
///
/// `graph` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> c_int {
    answer_always(|sim| {
        let stream = checked_stream(sim, stream as usize)?;
        let handle = sim.streams[&stream]
            .capture
            .ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)?;
        if sim
            .captures
            .get(&handle)
            .is_none_or(|capture| capture.origin != stream)
        {
            sim.report(
                Rule::IllegalInCapture,
                "a capture ends on another stream than it began on".into(),
            );
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        let capture = sim.captures.remove(&handle).expect("found above");
        for taking_part in capture.streams().collect::<Vec<_>>() {
            if let Some(stream) = sim.streams.get_mut(&taking_part) {
                stream.capture = None;
            }
        }
        if !capture.is_joined() {
            sim.report(
                Rule::UnjoinedCapture,
                "a stream was forked to and not joined".into(),
            );
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        }
        let made = sim.handle();
        sim.graphs.insert(made, Arc::new(capture.finish()));
        // SAFETY: the caller vouches for it.
        unsafe { put(graph, made as *mut c_void) }
    })
}

/// # Safety
///
/// `status` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: *mut c_void, status: *mut c_int) -> c_int {
    answer(Call::Other, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(status, c_int::from(sim.streams[&stream].capture.is_some())) }
    })
}

fn checked_graph(sim: &mut Sim, graph: *mut c_void) -> Result<Handle, CUresult> {
    let handle = graph as usize;
    if sim.graphs.contains_key(&handle) {
        return Ok(handle);
    }
    sim.report(
        Rule::DeadHandle,
        format!("a graph that does not exist (any more): {handle:#x}"),
    );
    Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

/// An executable graph is another handle to the same nodes.
///
/// # Safety
///
/// `executable` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut *mut c_void,
    graph: *mut c_void,
    _flags: c_ulonglong,
) -> c_int {
    answer(Call::Other, |sim| {
        let graph = checked_graph(sim, graph)?;
        let nodes = Arc::clone(&sim.graphs[&graph]);
        let made = sim.handle();
        sim.graphs.insert(made, nodes);
        // SAFETY: the caller vouches for it.
        unsafe { put(executable, made as *mut c_void) }
    })
}

/// `CUresult cuGraphLaunch(CUgraphExec, CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) -> c_int {
    answer(Call::Launch, |sim| {
        let stream = checked_stream(sim, stream as usize)?;
        check_launch_device(sim, stream, "cuGraphLaunch")?;
        let graph = checked_graph(sim, executable)?;
        refuse_in_capture(sim, stream, "cuGraphLaunch")?;
        let graph = Arc::clone(&sim.graphs[&graph]);
        sim.enqueue(stream, "cuGraphLaunch", Action::Graph(graph));
        Ok(())
    })
}

/// `CUresult cuGraphUpload(CUgraphExec, CUstream)`: nothing needs to be moved.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: *mut c_void, stream: *mut c_void) -> c_int {
    answer(Call::Other, |sim| {
        checked_stream(sim, stream as usize)?;
        checked_graph(sim, executable).map(drop)
    })
}

fn destroy_graph(graph: *mut c_void) -> c_int {
    answer_always(|sim| {
        let graph = checked_graph(sim, graph)?;
        sim.graphs.remove(&graph);
        Ok(())
    })
}

/// `CUresult cuGraphDestroy(CUgraph)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: *mut c_void) -> c_int {
    destroy_graph(graph)
}

/// `CUresult cuGraphExecDestroy(CUgraphExec)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: *mut c_void) -> c_int {
    destroy_graph(executable)
}
