//! Devices, primary contexts, errors.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUresult};

use super::{Answer, answer, answer_always, current, need_context, put, set_current};
use crate::faults::Call;
use crate::nccl::node_of;
use crate::rules::Rule;
use crate::sim::{Sim, variable};

const VERSION: c_int = 13_000;
const NAME: &str = "Simulated device";
const MULTIPROCESSORS: c_int = 4;
/// Hopper's, so that kernels are compiled as for a device that exists; ten times the compute capability.
const CAPABILITY: u64 = 90;

pub(super) fn checked(sim: &Sim, device: c_int) -> Result<usize, CUresult> {
    let found = usize::try_from(device)
        .ok()
        .filter(|device| *device < sim.devices);
    found.ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
}

fn capability() -> c_int {
    variable("CUDASIM_CAPABILITY", CAPABILITY) as c_int
}

/// A context is named by its device.
fn handle_of(device: usize) -> *mut c_void {
    (0x100 + device) as *mut c_void
}

fn device_of(sim: &Sim, context: *mut c_void) -> Option<usize> {
    (context as usize)
        .checked_sub(0x100)
        .filter(|device| *device < sim.devices)
}

/// `CUresult cuInit(unsigned flags)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> c_int {
    answer(Call::Other, |_| {
        if flags == 0 {
            Ok(())
        } else {
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    })
}

/// # Safety
///
/// The pointer is the caller's, as in every function of this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller vouches for it.
    answer_always(|_| unsafe { put(version, VERSION) })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller vouches for it.
    answer_always(|sim| unsafe { put(count, sim.devices as c_int) })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    answer_always(|sim| {
        checked(sim, ordinal)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(device, ordinal) }
    })
}

/// # Safety
///
/// `name` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, room: c_int, device: c_int) -> c_int {
    answer_always(|sim| {
        checked(sim, device)?;
        let length = NAME.len().min((room.max(1) - 1) as usize);
        // SAFETY: the caller vouches for the room.
        unsafe {
            std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, length);
            name.add(length).write(0);
        }
        Ok(())
    })
}

/// All processes see one machine: a device has the same identity in all of them that are in one node.
///
/// # Safety
///
/// `uuid` has room for 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    answer_always(|sim| {
        let device = checked(sim, device)?;
        let mut id = *b"cudasim\0NNNNDDDD";
        id[8..12].copy_from_slice(&(node_of(device) as u32).to_be_bytes());
        id[12..].copy_from_slice(&(device as u32).to_be_bytes());
        // SAFETY: the caller vouches for it.
        unsafe { put(uuid, id) }
    })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    answer_always(|sim| {
        checked(sim, device)?;
        // SAFETY: the caller vouches for it.
        unsafe { put(bytes, sim.memory.capacity() as usize) }
    })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    answer_always(|sim| {
        checked(sim, device)?;
        let is = |known: Attribute| attribute == known as c_int;
        let answer = if is(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) {
            capability() / 10
        } else if is(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) {
            capability() % 10
        } else if is(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) {
            MULTIPROCESSORS
        } else if is(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED) {
            1
        } else {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        };
        // SAFETY: the caller vouches for it.
        unsafe { put(value, answer) }
    })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_int {
    answer(Call::Other, |sim| {
        let device = checked(sim, device)?;
        sim.retained[device] += 1;
        // SAFETY: the caller vouches for it.
        unsafe { put(context, handle_of(device)) }
    })
}

/// `CUresult cuDevicePrimaryCtxRelease_v2(CUdevice)`: with the last one the context ends, and what it still has leaks.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    answer_always(|sim| {
        let device = checked(sim, device)?;
        sim.retained[device] = sim.retained[device]
            .checked_sub(1)
            .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        if sim.retained[device] == 0 {
            report_leaks(sim, device);
        }
        Ok(())
    })
}

fn report_leaks(sim: &mut Sim, device: usize) {
    let memory: Vec<u64> = sim
        .memory
        .leaks()
        .filter(|a| a.device == device)
        .map(|a| a.bytes)
        .collect();
    let only_device = sim.retained.iter().all(|retained| *retained == 0);
    let mut left = vec![
        ("communicators", sim.nccl.leaks(device)),
        ("allocations", memory.len()),
        (
            "streams",
            sim.streams
                .values()
                .filter(|stream| stream.device == device)
                .count(),
        ),
        (
            "events",
            sim.events.values().filter(|event| event.device == device).count(),
        ),
    ];
    if only_device {
        let (handles, descriptors) = crate::cudnn::leaks();
        left.extend([
            ("modules", sim.modules.len()),
            ("graphs", sim.graphs.len()),
            ("memory pools", sim.pools.len() - sim.devices),
            ("pinned allocations", sim.host_memory.leaks()),
            ("cuDNN handles", handles),
            ("cuDNN descriptors", descriptors),
            ("cuBLASLt objects", crate::cublaslt::leaks()),
        ]);
    }
    for (what, count) in left {
        if count > 0 {
            sim.report(Rule::Leak, format!("device {device} ends with {count} {what}"));
        }
    }
}

/// `CUresult cuCtxSetCurrent(CUcontext)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    answer_always(|sim| {
        if context.is_null() {
            set_current(None);
            return Ok(());
        }
        let device = device_of(sim, context).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        set_current(Some(device));
        Ok(())
    })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_int {
    let handle = current().map_or(std::ptr::null_mut(), handle_of);
    // SAFETY: the caller vouches for it.
    answer_always(|_| unsafe { put(context, handle) })
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> c_int {
    answer_always(|sim| {
        let current = need_context(sim, "cuCtxGetDevice")?;
        // SAFETY: the caller vouches for it.
        unsafe { put(device, current as c_int) }
    })
}

/// `CUresult cuCtxSynchronize(void)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    answer(Call::Other, |sim| {
        let device = need_context(sim, "cuCtxSynchronize")?;
        let streams: Vec<usize> = sim
            .streams
            .iter()
            .filter(|(_, stream)| stream.device == device)
            .map(|(handle, _)| *handle)
            .collect();
        streams
            .into_iter()
            .try_for_each(|stream| super::stream::synchronize(sim, stream))
    })
}

/// The names of errors that this simulator gives.
const ERRORS: [(CUresult, &[u8], &[u8]); 12] = [
    (CUresult::CUDA_SUCCESS, b"CUDA_SUCCESS\0", b"no error\0"),
    (
        CUresult::CUDA_ERROR_INVALID_VALUE,
        b"CUDA_ERROR_INVALID_VALUE\0",
        b"invalid argument\0",
    ),
    (
        CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        b"CUDA_ERROR_OUT_OF_MEMORY\0",
        b"out of memory\0",
    ),
    (
        CUresult::CUDA_ERROR_INVALID_CONTEXT,
        b"CUDA_ERROR_INVALID_CONTEXT\0",
        b"invalid device context\0",
    ),
    (
        CUresult::CUDA_ERROR_INVALID_DEVICE,
        b"CUDA_ERROR_INVALID_DEVICE\0",
        b"invalid device ordinal\0",
    ),
    (
        CUresult::CUDA_ERROR_INVALID_HANDLE,
        b"CUDA_ERROR_INVALID_HANDLE\0",
        b"invalid resource handle\0",
    ),
    (
        CUresult::CUDA_ERROR_NOT_SUPPORTED,
        b"CUDA_ERROR_NOT_SUPPORTED\0",
        b"operation not supported\0",
    ),
    (
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        b"CUDA_ERROR_ILLEGAL_ADDRESS\0",
        b"an illegal memory access was encountered\0",
    ),
    (
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        b"CUDA_ERROR_MISALIGNED_ADDRESS\0",
        b"misaligned address\0",
    ),
    (
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        b"CUDA_ERROR_LAUNCH_FAILED\0",
        b"unspecified launch failure\0",
    ),
    (
        CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        b"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES\0",
        b"too many resources requested for launch\0",
    ),
    (
        CUresult::CUDA_ERROR_UNKNOWN,
        b"CUDA_ERROR_UNKNOWN\0",
        b"unknown error\0",
    ),
];

fn error_text(error: c_int, to: *mut *const c_char, name: bool) -> Answer {
    let found = ERRORS.iter().find(|(known, ..)| *known as c_int == error);
    let text: &'static [u8] = match found {
        Some((_, text, _)) if name => text,
        Some((_, _, text)) => text,
        None => b"an error of the simulated driver\0",
    };
    // SAFETY: the caller of the C function vouches for it.
    unsafe { put(to, text.as_ptr().cast()) }
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: c_int, text: *mut *const c_char) -> c_int {
    answer_always(|_| error_text(error, text, true))
}

/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    answer_always(|_| error_text(error, text, false))
}

/// NVRTC and other libraries look for private tables of the driver: there are none.
///
/// # Safety
///
/// See [`cuDriverGetVersion`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, _id: *const c_void) -> c_int {
    answer_always(|_| {
        // SAFETY: the caller vouches for it.
        unsafe { put(table, std::ptr::null())? };
        Err(CUresult::CUDA_ERROR_NOT_FOUND)
    })
}
