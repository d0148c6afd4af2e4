//! A strict simulated CUDA device. README.md explains how it works and what it cannot show.
//!
//! As a shared library it stands in for NVIDIA's: [`cudasim_install`] makes it known under their names, and exports their
//! functions (`api`, `cudnn`, `cublaslt`, `nccl`). As a Rust library it lets tests ask what was reported.

#![allow(
    non_snake_case,
    non_upper_case_globals,
    reason = "the names of NVIDIA's functions"
)]

mod access;
mod api;
mod clock;
mod cublaslt;
mod cudnn;
mod faults;
mod fiber;
mod graph;
mod host;
mod library;
mod memory;
mod module;
mod nccl;
mod pool;
mod rules;
mod sim;
mod simt;
mod wait;

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use nccl::Wire;
pub use rules::{Report, Rule};
pub use sim::Traffic;

use sim::Sim;

include!(concat!(env!("OUT_DIR"), "/shims.rs"));

static DEVICES: AtomicUsize = AtomicUsize::new(1);

/// How many devices there are.
fn devices() -> usize {
    DEVICES.load(Ordering::Relaxed)
}

/// The exit status of a process that would have ended with 0, but broke a rule.
pub const EXIT_STATUS: c_int = 86;

/// Makes the simulator known under the names of NVIDIA's libraries and sets the number of devices. To be called once,
/// before anything looks for these libraries. Returns 0, or a system error number.
///
/// The loader finds what is loaded already by the name that it gives itself (its SONAME), and finds a function in a
/// library where one that it depends on has it. So a library without content for each name, which depends on this one, is
/// all that is needed.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_install(devices: c_uint) -> c_int {
    let devices = (devices as usize).clamp(1, memory::MOST_DEVICES);
    DEVICES.store(devices, Ordering::Relaxed);
    // Kept open until all are loaded: the loader would take a second file of the same path for the first.
    let mut files = Vec::new();
    for shim in SHIMS {
        match load(shim) {
            Ok(file) => files.push(file),
            Err(why) => return why.raw_os_error().unwrap_or(libc::ENOEXEC),
        }
    }
    drop(files);
    unsafe extern "C" {
        /// glibc's: like atexit, with the status.
        fn on_exit(function: unsafe extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    }
    // SAFETY: the function lives as long as the process: this library is never unloaded.
    unsafe { on_exit(at_exit, std::ptr::null_mut()) }
}

/// Loads a shared object from memory, through a file without a name.
fn load(image: &[u8]) -> std::io::Result<std::fs::File> {
    // SAFETY: a name, and a descriptor that is owned below.
    let fd = unsafe { libc::memfd_create(c"cudasim".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let mut file = unsafe { std::fs::File::from_raw_fd(fd) };
    file.write_all(image)?;
    let path = format!("/proc/self/fd/{fd}\0");
    // SAFETY: a library without code, linked by this crate's build script.
    let handle = unsafe { libc::dlopen(path.as_ptr().cast(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        return Err(std::io::Error::from_raw_os_error(libc::ENOEXEC));
    }
    Ok(file)
}

/// A process that broke a rule does not end well.
unsafe extern "C" fn at_exit(status: c_int, _: *mut c_void) {
    let reports = Sim::lock().reports().len();
    if reports > 0 {
        let _ = writeln!(std::io::stderr(), "cudasim: {reports} rules broken");
        if status == 0 {
            // SAFETY: ends the process, with everything else done.
            unsafe { libc::_exit(EXIT_STATUS) };
        }
    }
}

/// How many rules have been broken so far.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_reports() -> c_uint {
    Sim::lock().reports().len() as c_uint
}

/// Traffic of a kernel so far.
///
/// # Safety
///
/// `kernel` is a string, `traffic` points to room for launches, bytes read and bytes written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudasim_traffic(kernel: *const std::ffi::c_char, traffic: *mut [u64; 3]) {
    // SAFETY: the caller vouches for both.
    unsafe {
        let name = std::ffi::CStr::from_ptr(kernel).to_string_lossy();
        let found = traffic_of(&name);
        traffic.write([found.launches, found.read, found.written]);
    }
}

/// Traffic of a kernel so far.
pub fn traffic_of(kernel: &str) -> Traffic {
    Sim::lock().traffic.get(kernel).copied().unwrap_or_default()
}

/// What each device has exchanged with others by NCCL so far.
pub fn wire() -> BTreeMap<usize, Wire> {
    Sim::lock().wire()
}

/// What a device has exchanged by NCCL so far: bytes sent and received, and of these to and from other nodes.
///
/// # Safety
///
/// `bytes` points to room for four numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudasim_wire(device: c_uint, bytes: *mut [u64; 4]) {
    let wire = wire().remove(&(device as usize)).unwrap_or_default();
    let counts = [
        wire.sent,
        wire.received,
        wire.sent_off_node,
        wire.received_off_node,
    ];
    // SAFETY: the caller vouches for the room.
    unsafe { bytes.write(counts) };
}

/// The most bytes of a device that were allocated at a time since this was asked, or since the beginning.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_most_used(device: c_uint) -> u64 {
    Sim::lock().memory.take_most_used(device as usize)
}

/// How many calls there have been that can be made to fail: allocations, launches, copies, collectives, others.
pub fn calls() -> [u64; 5] {
    Sim::lock().faults.counts()
}

/// What [`calls`] says.
///
/// # Safety
///
/// `counts` points to room for five numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudasim_calls(counts: *mut [u64; 5]) {
    // SAFETY: the caller vouches for the room.
    unsafe { counts.write(calls()) };
}

/// Makes one call fail, as CUDASIM_FAIL does, or none ("none"); calls are counted anew from here.
pub fn fail(text: &str) {
    Sim::lock().faults.plan(text);
}

/// What [`fail`] does.
///
/// # Safety
///
/// `text` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudasim_fail(text: *const std::ffi::c_char) {
    // SAFETY: the caller vouches for it.
    fail(&unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy());
}

/// Begins the scheduler's choices anew, as CUDASIM_SEED does when a process starts.
#[unsafe(no_mangle)]
pub extern "C" fn cudasim_seed(seed: u64) {
    Sim::lock().begin_choices(seed);
}

/// Takes the reports out, so that the process can end well: for tests that break rules on purpose.
pub fn take_reports() -> Vec<Report> {
    Sim::lock().take_reports()
}

/// A new machine: nothing is left of what was before. For tests in one process.
pub fn reset(devices: usize, seed: u64) {
    DEVICES.store(devices, Ordering::Relaxed);
    *Sim::lock() = Sim::with_seed(devices, seed);
}
