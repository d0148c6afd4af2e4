//! NVIDIA's libraries, found and checked one by one before anything calls them.
//!
//! cudarc panics where a library or a symbol is missing, and tries only some of the names that libraries have. So each
//! library is loaded here first, by the names that drivers, toolkits and Python environments give it. cudarc then finds
//! it by its SONAME: the loader does not load what is loaded already.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};

use super::simulator;
use crate::error::{Error, Result, UnusableLibrary};

/// A library that the CUDA back end uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The driver: devices, memory, streams, launches.
    Driver,
    /// The run-time compiler of our kernels.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Convolutions.
    Cudnn,
    /// Collectives between devices.
    Nccl,
}

/// Major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        match patch {
            0 => write!(f, "{major}.{minor}"),
            _ => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

/// A library that is loaded and of a version that will do. It stays loaded until the process ends.
#[derive(Debug)]
pub struct Found {
    /// The file, links resolved.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Version,
    handle: Handle,
}

impl Found {
    /// The function called `name`, if the library has it.
    ///
    /// # Safety
    ///
    /// `F` must be the type of that function.
    pub unsafe fn symbol<F: Copy>(&self, name: &CStr) -> Option<F> {
        // SAFETY: the caller vouches for the type; the handle is never closed.
        let symbol = unsafe { self.handle.get::<F>(name.to_bytes_with_nul()) };
        symbol.ok().map(|symbol| *symbol)
    }
}

/// The outcome for every library, in the order of [`Library::ALL`].
#[derive(Debug)]
pub struct Libraries(Vec<Result<Found, UnusableLibrary>>);

impl Libraries {
    /// Looks for all libraries, in `folders` first, then where the system looks. The first call of the process decides:
    /// a library cannot be unloaded again.
    pub fn load(folders: &[PathBuf]) -> Result<&'static Self> {
        static LOADED: OnceLock<Libraries> = OnceLock::new();
        let simulated = simulator::install()?;
        Ok(LOADED.get_or_init(|| {
            let folders = if simulated {
                Vec::new()
            } else {
                library_folders(folders)
            };
            Self(
                Library::ALL
                    .iter()
                    .map(|library| library.find(&folders))
                    .collect(),
            )
        }))
    }

    /// The outcome for one library.
    pub fn get(&self, library: Library) -> Result<&Found, &UnusableLibrary> {
        self.0[library as usize].as_ref()
    }

    /// The library, or an error that says what is the matter with it.
    pub fn need(&self, library: Library) -> Result<&Found> {
        self.get(library)
            .map_err(|why| Error::Library(Box::new(why.clone())))
    }
}

impl Library {
    /// All of them, in the order in which they depend on each other.
    pub const ALL: [Self; 5] = [Self::Driver, Self::Nvrtc, Self::CublasLt, Self::Cudnn, Self::Nccl];

    /// The name that people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "NVIDIA driver",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Cudnn => "cuDNN",
            Self::Nccl => "NCCL",
        }
    }

    /// Whether one device can do without it.
    pub fn is_optional(self) -> bool {
        self == Self::Nccl
    }

    /// File names, the likeliest first.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so"],
            Self::CublasLt => &["libcublasLt.so.13", "libcublasLt.so"],
            Self::Cudnn => &["libcudnn.so.9", "libcudnn.so"],
            Self::Nccl => &["libnccl.so.2", "libnccl.so"],
        }
    }

    /// Versions from the first on, before the second: what cudarc's declarations were made from, up to the next major
    /// version (drivers run what was built for older ones).
    fn wanted(self) -> (Version, Version) {
        match self {
            Self::Driver => (Version(13, 0, 0), Version(u32::MAX, 0, 0)),
            Self::Nvrtc | Self::CublasLt => (Version(13, 0, 0), Version(14, 0, 0)),
            Self::Cudnn => (Version(9, 2, 1), Version(10, 0, 0)),
            Self::Nccl => (Version(2, 22, 0), Version(3, 0, 0)),
        }
    }

    fn wanted_text(self) -> String {
        let unit = if self == Self::Driver { "CUDA " } else { "" };
        match self.wanted() {
            (from, Version(u32::MAX, ..)) => format!("{unit}{from} or later"),
            (from, before) => format!("{unit}{from} or later, before {before}"),
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Driver => {
                "install NVIDIA's driver (inside a container: start it with GPU access), or use --device cpu"
            }
            Self::Nvrtc | Self::CublasLt | Self::Cudnn | Self::Nccl => {
                "install it, or name its folder (or the Python environment that has it) with --cuda-libs or \
                 VERYDEEP_CUDA_LIBS"
            }
        }
    }

    /// Loads the first file that loads, and asks it for its version.
    fn find(self, folders: &[PathBuf]) -> Result<Found, UnusableLibrary> {
        let unusable = |found: String| UnusableLibrary {
            library: self.name().into(),
            wanted: self.wanted_text(),
            found,
            searched: searched(folders),
            hint: self.hint().into(),
        };
        let in_folders = folders
            .iter()
            .flat_map(|folder| self.files().iter().map(move |file| folder.join(file)));
        let candidates = in_folders
            .filter(|path| path.exists())
            .chain(self.files().iter().map(PathBuf::from));
        let mut refusals = Vec::new();
        for path in candidates {
            match load(&path) {
                Err(why) => refusals.extend(path.is_absolute().then_some(why)),
                Ok(handle) => {
                    let path = self.file_of(&handle).unwrap_or(path);
                    let version = self
                        .version(&handle)
                        .map_err(|why| unusable(format!("{} ({why})", path.display())))?;
                    let (from, before) = self.wanted();
                    if version < from || version >= before {
                        return Err(unusable(format!("{version} at {}", path.display())));
                    }
                    self.check_that_cudarc_sees(&path).map_err(unusable)?;
                    return Ok(Found {
                        path,
                        version,
                        handle,
                    });
                }
            }
        }
        Err(unusable(if refusals.is_empty() {
            "none".into()
        } else {
            refusals.join("; ")
        }))
    }

    /// A function that every version has, and the one that tells the version.
    fn version_symbol(self) -> &'static CStr {
        match self {
            Self::Driver => c"cuDriverGetVersion",
            Self::Nvrtc => c"nvrtcVersion",
            Self::CublasLt => c"cublasLtGetVersion",
            Self::Cudnn => c"cudnnGetVersion",
            Self::Nccl => c"ncclGetVersion",
        }
    }

    fn version(self, handle: &Handle) -> Result<Version, String> {
        let name = self.version_symbol();
        let symbol = address(handle, name).ok_or_else(|| format!("it has no {}", name.to_string_lossy()))?;
        let failed = |status: c_int| format!("{} failed with status {status}", name.to_string_lossy());
        let (mut a, mut b): (c_int, c_int) = (0, 0);
        match self {
            Self::Driver | Self::Nccl => {
                // SAFETY: `int f(int*)` in both libraries' headers.
                let ask: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { std::mem::transmute(symbol) };
                // SAFETY: it writes the one integer.
                let status = unsafe { ask(&raw mut a) };
                if status != 0 {
                    return Err(failed(status));
                }
                let a = a.unsigned_abs();
                Ok(match self {
                    // 1000 major + 10 minor
                    Self::Driver => Version(a / 1000, a % 1000 / 10, 0),
                    // 10000 major + 100 minor + patch since 2.9
                    _ => Version(a / 10_000, a / 100 % 100, a % 100),
                })
            }
            Self::Nvrtc => {
                // SAFETY: `nvrtcResult nvrtcVersion(int* major, int* minor)`.
                let ask: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                    unsafe { std::mem::transmute(symbol) };
                // SAFETY: it writes the two integers.
                let status = unsafe { ask(&raw mut a, &raw mut b) };
                if status != 0 {
                    return Err(failed(status));
                }
                Ok(Version(a.unsigned_abs(), b.unsigned_abs(), 0))
            }
            Self::CublasLt | Self::Cudnn => {
                // SAFETY: `size_t f(void)` in both libraries' headers.
                let ask: unsafe extern "C" fn() -> usize = unsafe { std::mem::transmute(symbol) };
                // SAFETY: it has no preconditions.
                let n = unsafe { ask() } as u32;
                // 10000 major + 100 minor + patch: cuBLAS since 10, cuDNN since 9
                Ok(Version(n / 10_000, n / 100 % 100, n % 100))
            }
        }
    }

    /// The file that a loaded library came from.
    fn file_of(self, handle: &Handle) -> Option<PathBuf> {
        file_at(address(handle, self.version_symbol())?)
    }

    /// Makes sure that cudarc, which looks by names of its own, gets the file that was checked here. NCCL is called
    /// through a table of our own, because cudarc never tries `libnccl.so.2`.
    fn check_that_cudarc_sees(self, path: &Path) -> Result<(), String> {
        let name = self.version_symbol().to_bytes_with_nul();
        // SAFETY: looking libraries and symbols up runs no code but the libraries' initialisers.
        let cudarc = unsafe {
            use cudarc::{cublaslt, cudnn, driver, nvrtc};
            let present = match self {
                Self::Driver => driver::sys::is_culib_present(),
                Self::Nvrtc => nvrtc::sys::is_culib_present(),
                Self::CublasLt => cublaslt::sys::is_culib_present(),
                Self::Cudnn => cudnn::sys::is_culib_present(),
                Self::Nccl => return Ok(()),
            };
            if !present {
                return Err(format!(
                    "{}, which cudarc does not find by its SONAME",
                    path.display()
                ));
            }
            let library = match self {
                Self::Driver => driver::sys::culib(),
                Self::Nvrtc => nvrtc::sys::culib(),
                Self::CublasLt => cublaslt::sys::culib(),
                Self::Cudnn | Self::Nccl => cudnn::sys::culib(),
            };
            library
                .get::<*const c_void>(name)
                .ok()
                .and_then(|symbol| file_at(symbol.try_as_raw_ptr()?))
        };
        match cudarc {
            Some(other) if other != path => {
                Err(format!("two of them: {} and {}", path.display(), other.display()))
            }
            _ => Ok(()),
        }
    }
}

fn load(path: &Path) -> Result<Handle, String> {
    // SAFETY: loading runs the library's initialisers; these are NVIDIA's libraries, or the simulator that stands in
    // for them, and the program cannot do its work without running their code.
    unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|why| format!("{}, which cannot be loaded: {}", path.display(), cause(&why)))
}

/// What the system's loader says; `libloading` keeps it one level down.
pub(super) fn cause(why: &libloading::Error) -> String {
    why.source().map_or_else(|| why.to_string(), ToString::to_string)
}

fn address(handle: &Handle, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: only the address is taken.
    let symbol = unsafe { handle.get::<*const c_void>(name.to_bytes_with_nul()) };
    symbol.ok().map(|symbol| symbol.as_raw_ptr())
}

/// The file that the code at an address was loaded from, links resolved.
fn file_at(address: *mut c_void) -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr takes any address and fills the structure where it returns non-zero.
    let info = unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return None;
        }
        info.assume_init()
    };
    let name: *const c_char = info.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: a string of the loader's that lives as long as the library.
    let path = PathBuf::from(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
    Some(path.canonicalize().unwrap_or(path))
}

/// `folders` and what lies below them in toolkits and Python environments.
fn library_folders(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let packages = children(&folder.join("lib"), |name| name.starts_with("python"))
            .into_iter()
            .map(|python| python.join("site-packages"));
        let places = packages.chain([folder.clone()]);
        let wheels = places.flat_map(|place| children(&place.join("nvidia"), |_| true));
        let inside: Vec<PathBuf> = wheels.map(|wheel| wheel.join("lib")).collect();
        let below = ["lib64", "lib"].map(|name| folder.join(name));
        found.extend([folder.clone()].into_iter().chain(below).chain(inside));
    }
    found.retain(|folder| folder.is_dir());
    // An absolute name is what dlopen takes as it stands.
    found.iter_mut().for_each(|folder| {
        if let Ok(absolute) = std::path::absolute(&*folder) {
            *folder = absolute;
        }
    });
    found
}

/// Entries of a folder by name, sorted.
fn children(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

fn searched(folders: &[PathBuf]) -> Vec<String> {
    let folders = folders.iter().map(|folder| folder.display().to_string());
    let mut all: Vec<String> = folders.collect();
    all.push(match std::env::var("LD_LIBRARY_PATH") {
        Ok(path) if !path.is_empty() => format!("LD_LIBRARY_PATH ({path})"),
        _ => "LD_LIBRARY_PATH (empty)".into(),
    });
    all.push("the system's library folders".into());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_python_environment_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        let wheels = ["nvidia/cudnn/lib", "nvidia/cu13/lib"]
            .map(|wheel| root.path().join("lib/python3.11/site-packages").join(wheel));
        for wheel in &wheels {
            std::fs::create_dir_all(wheel).expect("a folder");
        }
        let found = library_folders(&[root.path().to_path_buf()]);
        assert!(wheels.iter().all(|wheel| found.contains(wheel)), "{found:?}");
        assert_eq!(found[0], root.path());
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libcudnn.so.9");
        std::fs::write(&file, "no library").expect("a file");
        let why = Library::Cudnn
            .find(&[folder.path().to_path_buf()])
            .expect_err("no library");
        assert!(why.found.contains("libcudnn.so.9"), "{why}");
        assert_eq!(why.wanted, "9.2.1 or later, before 10.0");
        assert!(
            why.to_string().contains(&folder.path().display().to_string()),
            "{why}"
        );
    }

    #[test]
    fn versions_are_ordered_and_shown() {
        assert!(Version(9, 10, 0) > Version(9, 2, 1));
        assert_eq!(Version(13, 0, 0).to_string(), "13.0");
        assert_eq!(Version(9, 2, 1).to_string(), "9.2.1");
    }
}
