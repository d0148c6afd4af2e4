//! Allocations, copies and fills.

use std::ffi::{c_int, c_uchar, c_uint, c_void};
use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use super::{Answer, answer, answer_always, checked_stream, need_context, put};
use crate::faults::Call;
use crate::memory::Stamp;
use crate::rules::Rule;
use crate::sim::{Action, Handle, Sim};

/// # Safety
///
/// `address` points to room for an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    answer(Call::Alloc, |sim| {
        let device = need_context(sim, "cuMemAlloc")?;
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let found = sim
            .memory
            .allocate(device, bytes as u64, None, Stamp::default())
            .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(address, found) }
    })
}

pub(super) fn refuse_in_capture(sim: &mut Sim, stream: Handle, name: &str) -> Answer {
    if sim.streams[&stream].capture.is_none() {
        return Ok(());
    }
    sim.report(
        Rule::IllegalInCapture,
        format!("{name} on a stream that is being captured"),
    );
    Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
}

/// The start of a live allocation, or the report of what is wrong with freeing it.
fn check_free(sim: &mut Sim, name: &str, address: u64) -> Answer {
    match sim.memory.near(address) {
        Some(a) if a.address == address && !a.freed => Ok(()),
        Some(a) if a.address == address => {
            let text = format!("{name}: {} bytes are freed already", a.bytes);
            sim.report(Rule::DoubleFree, text);
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
        _ => {
            sim.report(
                Rule::DoubleFree,
                format!("{name}: no allocation starts at {address:#x}"),
            );
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    }
}

/// `CUresult cuMemFree_v2(CUdeviceptr)`: at once, whatever may still use it.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    answer_always(|sim| {
        check_free(sim, "cuMemFree", address)?;
        let who = sim.as_host("cuMemFree");
        sim.free(&who, address);
        Ok(())
    })
}

/// `CUresult cuMemFreeAsync(CUdeviceptr, CUstream)`: when the stream gets there.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: *mut c_void) -> c_int {
    answer_always(|sim| {
        check_free(sim, "cuMemFreeAsync", address)?;
        let stream = checked_stream(sim, stream as usize)?;
        refuse_in_capture(sim, stream, "cuMemFreeAsync")?;
        if sim.broken(Some(sim.streams[&stream].device)).is_some() {
            sim.release(address);
        } else {
            sim.enqueue(stream, "cuMemFreeAsync", Action::Free(address));
        }
        Ok(())
    })
}

/// # Safety
///
/// Both point to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    answer(Call::Other, |sim| {
        let device = need_context(sim, "cuMemGetInfo")?;
        let capacity = sim.memory.capacity() as usize;
        // SAFETY: the caller vouches for it.
        unsafe {
            put(free, capacity - sim.memory.used(device) as usize)?;
            put(total, capacity)
        }
    })
}

/// # Safety
///
/// `address` points to room for an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) -> c_int {
    answer(Call::Alloc, |sim| {
        need_context(sim, "cuMemHostAlloc")?;
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let (mut found, page) = (std::ptr::null_mut(), 4096);
        // SAFETY: writes one address.
        if unsafe { libc::posix_memalign(&raw mut found, page, bytes) } != 0 {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        sim.host_memory.pin(found as u64, bytes as u64);
        // SAFETY: the caller vouches for it.
        unsafe { put(address, found) }
    })
}

/// `CUresult cuMemFreeHost(void*)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: *mut c_void) -> c_int {
    answer_always(|sim| {
        let Some(bytes) = sim.host_memory.unpin(address as u64) else {
            sim.report(
                Rule::DoubleFree,
                format!("cuMemFreeHost: {address:?} is not pinned memory"),
            );
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        };
        sim.retire_host_uses();
        sim.check_host("cuMemFreeHost", address as u64, bytes, true, 0);
        sim.forget_host(address as u64, bytes);
        // SAFETY: allocated by cuMemHostAlloc, and freed once.
        unsafe { libc::free(address) };
        Ok(())
    })
}

/// Checks a device range of a copy or fill when it is asked for, as the driver does.
fn check_device(sim: &mut Sim, name: &str, address: u64, bytes: usize) -> Answer {
    let Err(why) = sim.memory.holding(address, bytes as u64).map(drop) else {
        return Ok(());
    };
    let rule = if !sim.memory.is_device(address) {
        Rule::NotDeviceMemory
    } else if sim
        .memory
        .near(address)
        .is_some_and(|a| a.freed && address < a.address + a.bytes)
    {
        Rule::UseAfterFree
    } else {
        Rule::CopyRange
    };
    sim.report(rule, format!("{name}: {why}"));
    Err(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// The next time of a stream, as the operation that is about to be enqueued will have it.
pub(super) fn stamp_of_next(sim: &mut Sim, stream: Handle) -> (u32, u32) {
    let lane = sim.streams[&stream].lane;
    let mut clock = sim.clock_of_next(stream);
    (lane, clock.tick(lane))
}

/// `CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr, const void*, size_t, CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    answer(Call::Copy, |sim| {
        const NAME: &str = "cuMemcpyHtoDAsync";
        need_context(sim, NAME)?;
        let stream = checked_stream(sim, stream as usize)?;
        check_device(sim, NAME, to, bytes)?;
        if !sim.host_memory.is_pinned(from as u64) {
            // Pageable memory is staged before the call returns.
            // SAFETY: the program vouches for the source, as for a real copy.
            let content: Arc<[u8]> = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.into();
            sim.enqueue(stream, NAME, Action::CopyIn { to, bytes: content });
            return Ok(());
        }
        let (lane, time) = stamp_of_next(sim, stream);
        sim.use_host(NAME, from as u64, bytes as u64, false, lane, time);
        let (from, bytes) = (from as u64, bytes as u64);
        sim.enqueue(stream, NAME, Action::Copy { to, from, bytes });
        Ok(())
    })
}

/// `CUresult cuMemcpyDtoHAsync_v2(void*, CUdeviceptr, size_t, CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    answer(Call::Copy, |sim| {
        const NAME: &str = "cuMemcpyDtoHAsync";
        need_context(sim, NAME)?;
        let stream = checked_stream(sim, stream as usize)?;
        check_device(sim, NAME, from, bytes)?;
        let pinned = sim.host_memory.is_pinned(to as u64);
        if pinned {
            let (lane, time) = stamp_of_next(sim, stream);
            sim.use_host(NAME, to as u64, bytes as u64, true, lane, time);
        }
        let (to, bytes) = (to as u64, bytes as u64);
        sim.enqueue(stream, NAME, Action::Copy { to, from, bytes });
        if pinned {
            return Ok(());
        }
        // Into pageable memory the call returns when the copy is over.
        super::stream::synchronize(sim, stream)
    })
}

/// `CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, size_t, CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> c_int {
    answer(Call::Copy, |sim| {
        const NAME: &str = "cuMemcpyDtoDAsync";
        need_context(sim, NAME)?;
        let stream = checked_stream(sim, stream as usize)?;
        check_device(sim, NAME, to, bytes)?;
        check_device(sim, NAME, from, bytes)?;
        let bytes = bytes as u64;
        sim.enqueue(stream, NAME, Action::Copy { to, from, bytes });
        Ok(())
    })
}

/// `CUresult cuMemsetD8Async(CUdeviceptr, unsigned char, size_t, CUstream)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, bytes: usize, stream: *mut c_void) -> c_int {
    answer(Call::Copy, |sim| {
        const NAME: &str = "cuMemsetD8Async";
        need_context(sim, NAME)?;
        let stream = checked_stream(sim, stream as usize)?;
        check_device(sim, NAME, to, bytes)?;
        let bytes = bytes as u64;
        sim.enqueue(stream, NAME, Action::Fill { to, value, bytes });
        Ok(())
    })
}
