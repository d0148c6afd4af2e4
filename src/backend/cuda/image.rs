//! Machine code of the kernels: embedded by `build.rs` where it found `nvcc`, else compiled by NVRTC when a device is
//! opened, and kept on disk.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Write;
use std::path::PathBuf;
use std::ptr;

use cudarc::nvrtc::sys::{self as nvrtc, nvrtcProgram, nvrtcResult};
use sha2::{Digest, Sha256};

use super::device::DeviceFacts;
use super::libraries::{Libraries, Library};
use super::simulator;
use crate::durable::{create_folder, write_atomically};
use crate::error::{Error, Result};

/// A file of `kernels/` that others include.
pub(super) struct Header {
    pub(super) name: &'static CStr,
    pub(super) text: &'static str,
}

/// A file of `kernels/` that becomes a module.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    /// Machine code for all supported architectures.
    pub(super) fatbin: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Only what is written as fused is fused: the CPU back end rounds in the same places.
const OPTIONS: [&CStr; 2] = [c"--std=c++17", c"--fmad=false"];

/// The module's code for a device, from wherever it can be had.
pub(super) fn image(module: &Module, libraries: &Libraries, device: &DeviceFacts) -> Result<Vec<u8>> {
    let simulated = simulator::is_installed();
    if let Some(fatbin) = module.fatbin
        && !simulated
    {
        return Ok(fatbin.to_vec());
    }
    let compiler = libraries.need(Library::Nvrtc)?;
    let architecture = device.architecture();
    let by = format!("NVRTC {}", compiler.version);
    // What the simulated NVRTC makes is the place of a module in the very library that made it: another build of the
    // simulator has others.
    let cache = if simulated { None } else { Cache::of_user() };
    let key = key(module, &architecture, &by);
    if let Some(code) = cache.as_ref().and_then(|cache| cache.read(&key)) {
        return Ok(code);
    }
    let code = compile(module, &architecture)?;
    if let Some(cache) = cache {
        // What cannot be kept is compiled again next time; `verydeep doctor` says where the cache is.
        drop(cache.write(&key, &code));
    }
    Ok(code)
}

/// Names the code by everything that it depends on.
fn key(module: &Module, architecture: &str, compiler: &str) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for header in &HEADERS {
        add(header.name.to_bytes());
        add(header.text.as_bytes());
    }
    add(module.text.as_bytes());
    OPTIONS.iter().for_each(|option| add(option.to_bytes()));
    add(architecture.as_bytes());
    add(compiler.as_bytes());
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{architecture}-{}", module.name, &digest[..32])
}

/// Compiled kernels on disk, one file each: the SHA-256 of the code, then the code. Files appear whole or not at all,
/// so that any number of processes may share the folder; a file that does not match its hash counts as absent.
struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `VERYDEEP_KERNEL_CACHE`, or the user's cache folder; `None` where there is neither.
    fn of_user() -> Option<Self> {
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let user = || {
            set("XDG_CACHE_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".cache")))
                .map(|cache| cache.join("verydeep/kernels"))
        };
        set("VERYDEEP_KERNEL_CACHE")
            .or_else(user)
            .map(|folder| Self { folder })
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        let mut content = std::fs::read(self.folder.join(key)).ok()?;
        let (hash, code) = content.split_at_checked(32)?;
        (Sha256::digest(code)[..] == *hash).then(|| content.split_off(32))
    }

    fn write(&self, key: &str, code: &[u8]) -> Result<()> {
        create_folder(&self.folder)?;
        write_atomically(&self.folder.join(key), |file| {
            file.write_all(&Sha256::digest(code))?;
            file.write_all(code)
        })
    }
}

/// Where compiled kernels are kept.
pub fn cache_folder() -> Option<PathBuf> {
    Cache::of_user().map(|cache| cache.folder)
}

/// One NVRTC program, destroyed on drop.
struct Program(nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram and not destroyed yet.
        unsafe { nvrtc::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

fn compile(module: &Module, architecture: &str) -> Result<Vec<u8>> {
    let refused = |doing: &str, status: nvrtcResult, log: &str| Error::Device {
        device: architecture.into(),
        reason: format!("NVRTC: {doing} kernels/{}.cu: {status:?}: {log}", module.name),
    };
    let program = create(module).map_err(|status| refused("reading", status, ""))?;
    let target = CString::new(format!("--gpu-architecture={architecture}")).expect("no NUL in it");
    let options: Vec<*const c_char> = OPTIONS
        .iter()
        .map(|o| o.as_ptr())
        .chain([target.as_ptr()])
        .collect();
    // SAFETY: the options are NUL-terminated and live until after the call.
    let status = unsafe { nvrtc::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
    if status != nvrtcResult::NVRTC_SUCCESS {
        return Err(refused("compiling", status, &log(&program)));
    }
    let mut size = 0;
    // SAFETY: writes one size_t.
    let status = unsafe { nvrtc::nvrtcGetCUBINSize(program.0, &raw mut size) };
    let mut code = vec![0u8; size];
    if status == nvrtcResult::NVRTC_SUCCESS {
        // SAFETY: NVRTC writes `size` bytes, as it has just said.
        let status = unsafe { nvrtc::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) };
        if status == nvrtcResult::NVRTC_SUCCESS && size > 0 {
            return Ok(code);
        }
    }
    Err(refused("making machine code of", status, "none came out"))
}

fn create(module: &Module) -> Result<Program, nvrtcResult> {
    let text = |text: &str| CString::new(text).expect("sources hold no NUL");
    let source = text(module.text);
    let name = text(&format!("{}.cu", module.name));
    let texts: Vec<CString> = HEADERS.iter().map(|header| text(header.text)).collect();
    let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let names: Vec<*const c_char> = HEADERS.iter().map(|header| header.name.as_ptr()).collect();
    let mut program = ptr::null_mut();
    // SAFETY: all strings are NUL-terminated; NVRTC copies them.
    let status = unsafe {
        nvrtc::nvrtcCreateProgram(
            &raw mut program,
            source.as_ptr(),
            name.as_ptr(),
            names.len() as c_int,
            pointers.as_ptr(),
            names.as_ptr(),
        )
    };
    if status == nvrtcResult::NVRTC_SUCCESS {
        Ok(Program(program))
    } else {
        Err(status)
    }
}

fn log(program: &Program) -> String {
    let mut size = 0;
    // SAFETY: writes one size_t; then as many bytes as it said.
    let text = unsafe {
        nvrtc::nvrtcGetProgramLogSize(program.0, &raw mut size);
        let mut text = vec![0u8; size];
        if size > 0 {
            nvrtc::nvrtcGetProgramLog(program.0, text.as_mut_ptr().cast());
        }
        text
    };
    String::from_utf8_lossy(&text)
        .trim_end_matches(['\0', '\n'])
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn cache(folder: &Path) -> Cache {
        Cache {
            folder: folder.join("made/on/demand"),
        }
    }

    #[test]
    fn code_comes_back_and_damaged_code_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path());
        assert_eq!(cache.read("key"), None);
        cache.write("key", b"machine code").expect("a writable folder");
        assert_eq!(cache.read("key").as_deref(), Some(&b"machine code"[..]));
        let path = cache.folder.join("key");
        let whole = std::fs::read(&path).expect("the file");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("a torn file");
            assert_eq!(cache.read("key"), None, "{length} of {} bytes", whole.len());
        }
        for byte in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1;
            std::fs::write(&path, &flipped).expect("a damaged file");
            assert_eq!(cache.read("key"), None, "byte {byte}");
        }
    }

    #[test]
    fn writers_and_readers_at_once_see_whole_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path());
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let cache = &cache;
                scope.spawn(move || {
                    for _ in 0..20 {
                        cache.write("key", &[writer; 5000]).expect("a writable folder");
                        let code = cache.read("key").expect("a whole file");
                        assert!(code.len() == 5000 && code.iter().all(|byte| *byte == code[0]));
                    }
                });
            }
        });
    }

    #[test]
    fn a_key_depends_on_everything_that_the_code_depends_on() {
        let module = |text| Module {
            name: "m",
            text,
            fatbin: None,
        };
        let keys = [
            key(&module("a"), "sm_80", "NVRTC 13.0"),
            key(&module("b"), "sm_80", "NVRTC 13.0"),
            key(&module("a"), "sm_90", "NVRTC 13.0"),
            key(&module("a"), "sm_80", "NVRTC 13.1"),
            key(&module("a"), "sm_80", "NVRTC 13.0, simulated"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{key}");
        }
    }
}
