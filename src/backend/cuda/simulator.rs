//! The simulated device (`tools/cudasim`): a shared library that stands in for NVIDIA's.

use std::ffi::{c_int, c_uint};
use std::path::PathBuf;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::libraries::cause;
use crate::error::{Error, Result};

/// How many simulated devices there shall be. Unset: real ones.
pub const VARIABLE: &str = "VERYDEEP_SIMULATE_CUDA";

const FILE: &str = "libcudasim.so";

/// What one node has at most.
const MOST_DEVICES: c_uint = 16;

static STARTED: OnceLock<Result<(), String>> = OnceLock::new();

/// Whether the simulator stands in for NVIDIA's libraries in this process.
pub(super) fn is_installed() -> bool {
    matches!(STARTED.get(), Some(Ok(())))
}

/// Puts the simulator in the place of NVIDIA's libraries where the variable asks for it, and says whether it did.
///
/// Must come before the first look for these libraries: the loader then finds the simulator by their names.
pub(super) fn install() -> Result<bool> {
    let Ok(devices) = std::env::var(VARIABLE) else {
        return Ok(false);
    };
    let devices: c_uint = match devices.parse() {
        Ok(devices) if (1..=MOST_DEVICES).contains(&devices) => devices,
        _ => {
            return Err(Error::Usage(format!(
                "{VARIABLE}: expected a number of devices from 1 to {MOST_DEVICES}, found '{devices}'"
            )));
        }
    };
    let started = STARTED.get_or_init(|| start(devices));
    started.clone().map(|()| true).map_err(|reason| Error::Device {
        device: format!("{devices} simulated"),
        reason,
    })
}

fn start(devices: c_uint) -> Result<(), String> {
    let path = beside_the_program()?;
    // SAFETY: our own library, built from this repository; its initialisers only set up tables.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|why| format!("{} cannot be loaded: {}", path.display(), cause(&why)))?;
    // SAFETY: `int cudasim_install(unsigned devices)`, as tools/cudasim declares it.
    let install = unsafe { library.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cudasim_install\0") }
        .map_err(|why| format!("{} is of another version: {why}", path.display()))?;
    // SAFETY: called once, before any other function of the simulator.
    let status = unsafe { install(devices) };
    // It must outlive everything: leaked, as the real driver is.
    std::mem::forget(library);
    match status {
        0 => Ok(()),
        status => Err(format!("the simulator did not start: status {status}")),
    }
}

/// `cargo build --workspace` puts the simulator beside the program, and beside the folder of its tests.
fn beside_the_program() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|why| format!("the program's path is unknown: {why}"))?;
    let folders = program.ancestors().skip(1).take(2);
    let mut candidates = folders.map(|folder| folder.join(FILE));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "{VARIABLE} is set, but there is no {FILE} beside {}; build it with: cargo build --release --workspace \
             (it needs g++)",
            program.display()
        )
    })
}
