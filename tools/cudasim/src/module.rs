//! Modules: the kernels of the host build, and the images that the simulated NVRTC makes of their sources.

use std::ffi::c_void;
use std::ops::Range;

use crate::simt::{Dim3, Kernel};

/// One `.cu` file of the host build.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    /// What it was compiled from.
    pub(crate) text: &'static str,
    /// Its kernels.
    pub(crate) kernels: fn() -> &'static [Kernel],
}

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// What an image begins with; the number of a module follows.
const MAGIC: &[u8; 16] = b"CUDASIM IMAGE v1";

/// The image of a source text: what NVRTC compiles it to. Fails where the kernels of this simulator were built from
/// another text.
pub(crate) fn compile(name: &str, text: &str, headers: &[(String, String)]) -> Result<Vec<u8>, String> {
    let stem = name.trim_end_matches(".cu");
    let at = MODULES.iter().position(|module| module.name == stem);
    let at =
        at.ok_or_else(|| format!("{name}: the simulator was built without it: cargo build --workspace"))?;
    let differs = |what: &str| {
        format!(
            "{what} is not what the simulator was built from: cargo build --workspace brings it up to date"
        )
    };
    if MODULES[at].text != text {
        return Err(differs(name));
    }
    for (name, text) in headers {
        if !HEADERS
            .iter()
            .any(|(known, built)| known == name && built == text)
        {
            return Err(differs(name));
        }
    }
    let mut image = MAGIC.to_vec();
    image.extend((at as u64).to_le_bytes());
    Ok(image)
}

/// Bytes of an image.
pub(crate) const IMAGE_BYTES: usize = MAGIC.len() + 8;

/// The module that an image stands for.
pub(crate) fn module_of(image: &[u8]) -> Option<usize> {
    let number = image.strip_prefix(MAGIC)?;
    let number = u64::from_le_bytes(number.try_into().ok()?) as usize;
    (number < MODULES.len()).then_some(number)
}

/// Finds a kernel of a module.
pub(crate) fn kernel(module: usize, name: &str) -> Option<&'static Kernel> {
    (MODULES[module].kernels)()
        .iter()
        .find(|kernel| kernel.name() == name)
}

/// A launch as it was asked for: the arguments were copied then.
pub(crate) struct Launch {
    pub(crate) kernel: &'static Kernel,
    pub(crate) grid: Dim3,
    pub(crate) block: Dim3,
    pub(crate) arguments: Vec<Vec<u64>>,
}

impl Launch {
    /// An address for each parameter.
    pub(crate) fn pointers(&self) -> Vec<*mut c_void> {
        self.arguments
            .iter()
            .map(|bytes| bytes.as_ptr() as *mut c_void)
            .collect()
    }

    /// Copies the arguments of a launch.
    ///
    /// # Safety
    ///
    /// `arguments` has a pointer for each parameter, to as many bytes as it has.
    pub(crate) unsafe fn copy_arguments(kernel: &Kernel, arguments: *const *const c_void) -> Vec<Vec<u64>> {
        let copy = |(i, size): (usize, &u32)| {
            // Whole words, so that every type is aligned.
            let mut bytes = vec![0u64; (*size as usize).div_ceil(8)];
            // SAFETY: the caller vouches for the pointers.
            unsafe {
                let from = (*arguments.add(i)).cast::<u8>();
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr().cast::<u8>(), *size as usize);
            }
            bytes
        };
        kernel.sizes().iter().enumerate().map(copy).collect()
    }
}

/// The kernels' thread-local storage on this thread of the host: their shared memory.
pub(crate) fn shared_memory() -> Range<u64> {
    struct Search {
        inside: u64,
        found: Range<u64>,
    }
    /// Looks for the loaded object whose thread-local storage holds `inside`.
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        data: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: dl_iterate_phdr passes a valid entry, and the search given below.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        let start = info.dlpi_tls_data as u64;
        for i in 0..info.dlpi_phnum {
            // SAFETY: the object has that many headers.
            let header = unsafe { &*info.dlpi_phdr.add(usize::from(i)) };
            let range = start..start + header.p_memsz;
            if header.p_type == libc::PT_TLS && start != 0 && range.contains(&search.inside) {
                search.found = range;
                return 1;
            }
        }
        0
    }
    unsafe extern "C" {
        /// The address of a variable in the kernels' thread-local storage (anchor.cpp).
        safe fn cudasim_shared_anchor() -> *const c_void;
    }
    let mut search = Search {
        inside: cudasim_shared_anchor() as u64,
        found: 0..0,
    };
    // SAFETY: `visit` gets the search that lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    let start = search.found.start & !3;
    start..search.found.end.next_multiple_of(4)
}
