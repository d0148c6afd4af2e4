//! Modules, kernels and launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use super::{answer, answer_always, check_launch_device, checked_stream, need_context, put};
use crate::faults::Call;
use crate::module::{IMAGE_BYTES, Launch, kernel, module_of};
use crate::rules::Rule;
use crate::sim::Action;
use crate::simt::Dim3;

/// # Safety
///
/// `module` points to room for a handle, `image` to an image.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    answer(Call::Other, |sim| {
        need_context(sim, "cuModuleLoadData")?;
        // SAFETY: images of this simulator have this size; of others at least as much is there.
        let bytes = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), IMAGE_BYTES) };
        let Some(number) = module_of(bytes) else {
            sim.report(
                Rule::ForeignImage,
                "an image that the simulated NVRTC has not made".into(),
            );
            return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
        };
        let handle = sim.handle();
        sim.modules.insert(handle, number);
        // SAFETY: the caller vouches for it.
        unsafe { put(module, handle as *mut c_void) }
    })
}

/// `CUresult cuModuleUnload(CUmodule)`.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> c_int {
    answer_always(|sim| {
        if sim.modules.remove(&(module as usize)).is_some() {
            return Ok(());
        }
        sim.report(Rule::DeadHandle, "a module that does not exist (any more)".into());
        Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
    })
}

/// # Safety
///
/// `function` points to room for a handle, `name` to a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_int {
    answer(Call::Other, |sim| {
        let Some(number) = sim.modules.get(&(module as usize)).copied() else {
            sim.report(Rule::DeadHandle, "a module that does not exist (any more)".into());
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        };
        // SAFETY: the caller vouches for it.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let found = kernel(number, &name).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
        let handle = sim.handle();
        sim.functions.insert(handle, found);
        // SAFETY: the caller vouches for it.
        unsafe { put(function, handle as *mut c_void) }
    })
}

/// Limits of compute capability 9.0.
fn shape_is_legal(grid: Dim3, block: Dim3, shared_bytes: c_uint) -> bool {
    let within = |dim: Dim3, x: u64, y: u64, z: u64| {
        let inside = |value: c_uint, most: u64| (1..=most).contains(&u64::from(value));
        inside(dim.x, x) && inside(dim.y, y) && inside(dim.z, z)
    };
    within(grid, (1 << 31) - 1, 65_535, 65_535)
        && within(block, 1024, 1024, 64)
        && block.count() <= 1024
        && shared_bytes <= 48 << 10
}

/// # Safety
///
/// `arguments` has a pointer for each parameter of the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    answer(Call::Launch, |sim| {
        let Some(kernel) = sim.functions.get(&(function as usize)).copied() else {
            sim.report(Rule::DeadHandle, "a kernel that does not exist".into());
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        };
        let stream = checked_stream(sim, stream as usize)?;
        check_launch_device(sim, stream, kernel.name())?;
        let (grid, block) = (
            Dim3 {
                x: grid_x,
                y: grid_y,
                z: grid_z,
            },
            Dim3 {
                x: block_x,
                y: block_y,
                z: block_z,
            },
        );
        if !shape_is_legal(grid, block, shared_bytes) {
            sim.report(
                Rule::LaunchShape,
                format!("{}: grid {grid:?}, block {block:?}", kernel.name()),
            );
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the pointers.
        let arguments = unsafe { Launch::copy_arguments(kernel, arguments.cast()) };
        let launch = Launch {
            kernel,
            grid,
            block,
            arguments,
        };
        sim.enqueue(stream, kernel.name(), Action::Launch(Arc::new(launch)));
        Ok(())
    })
}
