//! The simulated NVRTC: it compiles nothing, but knows whether the host build was made from the same text.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::nvrtc::sys::nvrtcResult as Result_;

use crate::faults::Call;
use crate::module::compile;
use crate::sim::Sim;

#[derive(Debug, Clone, Default)]
struct Program {
    name: String,
    text: String,
    headers: Vec<(String, String)>,
    log: String,
    code: Vec<u8>,
}

#[derive(Default)]
struct Programs {
    next: usize,
    all: HashMap<usize, Program>,
}

fn programs() -> MutexGuard<'static, Programs> {
    static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

const SUCCESS: c_int = Result_::NVRTC_SUCCESS as c_int;
const OUT_OF_MEMORY: c_int = Result_::NVRTC_ERROR_OUT_OF_MEMORY as c_int;
const INVALID_PROGRAM: c_int = Result_::NVRTC_ERROR_INVALID_PROGRAM as c_int;

/// # Safety
///
/// `text` is a string.
unsafe fn string(text: *const c_char) -> String {
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
///
/// Both point to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    // SAFETY: the caller vouches for it.
    unsafe {
        major.write(13);
        minor.write(0);
    }
    SUCCESS
}

/// # Safety
///
/// Strings and arrays are as NVRTC's documentation has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut *mut c_void,
    text: *const c_char,
    name: *const c_char,
    count: c_int,
    headers: *const *const c_char,
    names: *const *const c_char,
) -> c_int {
    if Sim::lock().faults.meet(Call::Other).is_err() {
        return OUT_OF_MEMORY;
    }
    // SAFETY: the caller vouches for them.
    let made = unsafe {
        let header = |i: usize| (string(*names.add(i)), string(*headers.add(i)));
        Program {
            name: string(name),
            text: string(text),
            headers: (0..count.max(0) as usize).map(header).collect(),
            ..Program::default()
        }
    };
    let mut programs = programs();
    programs.next += 16;
    let handle = programs.next;
    programs.all.insert(handle, made);
    // SAFETY: the caller vouches for it.
    unsafe { program.write(handle as *mut c_void) };
    SUCCESS
}

/// # Safety
///
/// `options` has `count` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCompileProgram(
    program: *mut c_void,
    count: c_int,
    options: *const *const c_char,
) -> c_int {
    // SAFETY: the caller vouches for them.
    let options: Vec<String> = (0..count.max(0) as usize)
        .map(|i| unsafe { string(*options.add(i)) })
        .collect();
    let mut programs = programs();
    let Some(program) = programs.all.get_mut(&(program as usize)) else {
        return INVALID_PROGRAM;
    };
    // The host build does not contract; code that did would round elsewhere.
    let made = if options.iter().any(|option| option == "--fmad=false") {
        compile(&program.name, &program.text, &program.headers)
    } else {
        Err(format!(
            "expected --fmad=false among the options, found {options:?}"
        ))
    };
    match made {
        Ok(code) => {
            program.code = code;
            SUCCESS
        }
        Err(why) => {
            program.log = why;
            Result_::NVRTC_ERROR_COMPILATION as c_int
        }
    }
}

/// Writes something of a program.
fn with(program: *mut c_void, write: impl FnOnce(&Program)) -> c_int {
    match programs().all.get(&(program as usize)) {
        Some(program) => {
            write(program);
            SUCCESS
        }
        None => INVALID_PROGRAM,
    }
}

/// # Safety
///
/// `size` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLogSize(program: *mut c_void, size: *mut usize) -> c_int {
    // SAFETY: the caller vouches for it.
    with(program, |program| unsafe { size.write(program.log.len() + 1) })
}

/// # Safety
///
/// `log` has room for as many bytes as [`nvrtcGetProgramLogSize`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLog(program: *mut c_void, log: *mut c_char) -> c_int {
    // SAFETY: the caller vouches for the room.
    with(program, |program| unsafe {
        std::ptr::copy_nonoverlapping(program.log.as_ptr().cast(), log, program.log.len());
        log.add(program.log.len()).write(0);
    })
}

/// # Safety
///
/// `size` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetCUBINSize(program: *mut c_void, size: *mut usize) -> c_int {
    // SAFETY: the caller vouches for it.
    with(program, |program| unsafe { size.write(program.code.len()) })
}

/// # Safety
///
/// `code` has room for as many bytes as [`nvrtcGetCUBINSize`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetCUBIN(program: *mut c_void, code: *mut c_char) -> c_int {
    // SAFETY: the caller vouches for the room.
    with(program, |program| unsafe {
        std::ptr::copy_nonoverlapping(program.code.as_ptr().cast(), code, program.code.len());
    })
}

/// # Safety
///
/// `program` points to a program.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut c_void) -> c_int {
    // SAFETY: the caller vouches for it.
    let handle = unsafe { *program } as usize;
    match programs().all.remove(&handle) {
        Some(_) => SUCCESS,
        None => INVALID_PROGRAM,
    }
}
