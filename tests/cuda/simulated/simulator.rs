//! The simulator in this process, and its own functions.

use std::ffi::CString;
use std::sync::Once;

use libloading::os::unix::Library;
use verydeep::backend::cuda::libraries::Libraries;

/// Where NVIDIA's libraries are: the simulator is all of them.
pub(crate) fn libraries() -> &'static Libraries {
    static SIMULATOR: Once = Once::new();
    // SAFETY: the variable is set once, and whoever reads it comes here first.
    SIMULATOR.call_once(|| unsafe { std::env::set_var("VERYDEEP_SIMULATE_CUDA", "1") });
    Libraries::load(&[]).unwrap()
}

/// A function of libcudasim.so, which is loaded.
fn function<T: Copy>(name: &[u8]) -> T {
    libraries();
    // SAFETY: the types are those that tools/cudasim declares.
    unsafe { *Library::this().get::<T>(name).unwrap() }
}

/// Makes one call fail: `alloc:3`, `launch:N`, `copy:N`, `other:N`, or `none`. Counts begin anew.
pub(crate) fn fail(text: &str) {
    let text = CString::new(text).unwrap();
    let fail: unsafe extern "C" fn(*const std::ffi::c_char) = function(b"cudasim_fail\0");
    // SAFETY: a string.
    unsafe { fail(text.as_ptr()) };
}

/// Chooses another order of what streams leave open.
pub(crate) fn seed(seed: u64) {
    let begin: unsafe extern "C" fn(u64) = function(b"cudasim_seed\0");
    // SAFETY: takes a number.
    unsafe { begin(seed) };
}

/// Calls since [`fail`]: allocations, launches, copies, collectives, others.
pub(crate) fn calls() -> [u64; 5] {
    let calls: unsafe extern "C" fn(*mut [u64; 5]) = function(b"cudasim_calls\0");
    let mut counts = [0; 5];
    // SAFETY: room for five numbers.
    unsafe { calls(&raw mut counts) };
    counts
}

/// The most bytes of the first device that were allocated at a time since this was asked.
pub(crate) fn most_used() -> u64 {
    let most_used: unsafe extern "C" fn(std::ffi::c_uint) -> u64 = function(b"cudasim_most_used\0");
    // SAFETY: takes a number.
    unsafe { most_used(0) }
}

/// Rules broken so far. They are on standard error, too.
pub(crate) fn reports() -> u32 {
    let reports: unsafe extern "C" fn() -> u32 = function(b"cudasim_reports\0");
    // SAFETY: takes nothing.
    unsafe { reports() }
}
