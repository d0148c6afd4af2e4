//! The stream-ordered allocator and its pools.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys::{CUmemPool_attribute as Attribute, CUresult};

use super::device::checked;
use super::memory::{refuse_in_capture, stamp_of_next};
use super::{Answer, answer, answer_always, checked_stream, need_context, put};
use crate::faults::Call;
use crate::memory::Stamp;
use crate::pool::{Pool, default_of};
use crate::rules::Rule;
use crate::sim::{Action, Handle, Sim};

/// Allocates from a pool; the memory is there from this point of the stream on.
fn allocate(
    sim: &mut Sim,
    name: &str,
    pool: Handle,
    bytes: usize,
    stream: *mut c_void,
) -> Result<u64, CUresult> {
    need_context(sim, name)?;
    let stream = checked_stream(sim, stream as usize)?;
    refuse_in_capture(sim, stream, name)?;
    if bytes == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let device = sim.pools[&pool].device;
    let (lane, time) = stamp_of_next(sim, stream);
    let born = Stamp {
        lane,
        time,
        ..Stamp::default()
    };
    let found = sim.memory.allocate(device, bytes as u64, Some(pool), born);
    let found = found.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    sim.count_pool_use(pool, bytes as u64);
    sim.enqueue(stream, name, Action::Allocate);
    Ok(found)
}

/// # Safety
///
/// `address` points to room for an address, as in every function of this file that has one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: *mut c_void) -> c_int {
    answer(Call::Alloc, |sim| {
        let of_stream = checked_stream(sim, stream as usize)?;
        let pool = default_of(sim.streams[&of_stream].device);
        let found = allocate(sim, "cuMemAllocAsync", pool, bytes, stream)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(address, found) }
    })
}

/// # Safety
///
/// See [`cuMemAllocAsync`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(
    address: *mut u64,
    bytes: usize,
    pool: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    answer(Call::Alloc, |sim| {
        let pool = checked_pool(sim, pool)?;
        let found = allocate(sim, "cuMemAllocFromPoolAsync", pool, bytes, stream)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(address, found) }
    })
}

fn checked_pool(sim: &mut Sim, pool: *mut c_void) -> Result<Handle, CUresult> {
    let handle = pool as Handle;
    if sim.pools.contains_key(&handle) {
        return Ok(handle);
    }
    let text = format!("a memory pool that does not exist (any more): {handle:#x}");
    sim.report(Rule::DeadHandle, text);
    Err(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// # Safety
///
/// `pool` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, device: c_int) -> c_int {
    answer_always(|sim| {
        let device = checked(sim, device)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(pool, default_of(device) as *mut c_void) }
    })
}

/// The beginning of CUmemPoolProps: what is read of it.
#[repr(C)]
pub struct Properties {
    allocation: c_int,
    handles: c_int,
    location: c_int,
    device: c_int,
}

/// # Safety
///
/// `pool` points to room for a handle, `properties` to a CUmemPoolProps.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(pool: *mut *mut c_void, properties: *const Properties) -> c_int {
    answer(Call::Other, |sim| {
        // SAFETY: the caller vouches for it.
        let properties = unsafe { properties.as_ref() }.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        // Pinned memory (allocation) on a device (location).
        if properties.allocation != 1 || properties.location != 1 {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let device = checked(sim, properties.device)?;
        let handle = sim.handle();
        let made = Pool {
            device,
            ..Pool::default()
        };
        sim.pools.insert(handle, made);
        // SAFETY: the caller vouches for it.
        unsafe { put(pool, handle as *mut c_void) }
    })
}

/// `CUresult cuMemPoolDestroy(CUmemoryPool)`: what was allocated from it lives on.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: *mut c_void) -> c_int {
    answer_always(|sim| {
        let pool = checked_pool(sim, pool)?;
        if (0..sim.devices).any(|device| pool == default_of(device)) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        sim.pools.remove(&pool);
        Ok(())
    })
}

/// `CUresult cuMemPoolTrimTo(CUmemoryPool, size_t)`: nothing is kept that could be given back.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: *mut c_void, _bytes: usize) -> c_int {
    answer(Call::Other, |sim| checked_pool(sim, pool).map(drop))
}

/// # Safety
///
/// `value` points to a number of the attribute's type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: *mut c_void,
    attribute: c_int,
    value: *const c_void,
) -> c_int {
    let is = |known: Attribute| attribute == known as c_int;
    answer(Call::Other, |sim| {
        let pool = checked_pool(sim, pool)?;
        let pool = sim.pools.get_mut(&pool).expect("checked above");
        if is(Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
            // SAFETY: the caller vouches for it.
            pool.release_threshold = unsafe { value.cast::<u64>().read() };
        } else if is(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
            || is(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
        {
            pool.most_used = pool.used;
        } else {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        Ok(())
    })
}

/// # Safety
///
/// `value` points to room for a number of the attribute's type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    pool: *mut c_void,
    attribute: c_int,
    value: *mut c_void,
) -> c_int {
    let is = |known: Attribute| attribute == known as c_int;
    answer(Call::Other, |sim| -> Answer {
        let pool = checked_pool(sim, pool)?;
        let pool = &sim.pools[&pool];
        let found = if is(Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
            pool.release_threshold
        } else if is(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
            || is(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
        {
            pool.used
        } else if is(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
            || is(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
        {
            pool.most_used
        } else {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        };
        // SAFETY: the caller vouches for it.
        unsafe { put(value.cast(), found) }
    })
}
