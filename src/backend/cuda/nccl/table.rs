//! NCCL's functions, looked up by name. cudarc has them too, but looks for the library by names that a Python environment
//! does not have; its types are used.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclUniqueId};

use crate::backend::cuda::libraries::{Libraries, Library};
use crate::error::{Error, Result};

/// `ncclResult_t`: a number, as a version of the library may answer what this program does not know.
pub(super) type Status = c_int;

pub(super) const SUCCESS: Status = 0;
pub(super) const REMOTE_ERROR: Status = 6;
pub(super) const IN_PROGRESS: Status = 7;

/// `ncclUint8`, `ncclFloat32` and `ncclUint32` of `ncclDataType_t`.
pub(super) const UINT8: c_int = 1;
pub(super) const FLOAT32: c_int = 7;
pub(super) const UINT32: c_int = 3;

/// `ncclSum` and `ncclMax` of `ncclRedOp_t`.
pub(super) const SUM: c_int = 0;
pub(super) const MAX: c_int = 2;

/// `ncclConfig_t` as of version 2.17; later versions accept it by its `size` and `version`.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Calls return before they are done, so that whoever waits can also see that a peer is gone; everything else is the
    /// library's choice: `NCCL_CONFIG_INITIALIZER` with `blocking` 0.
    pub(super) fn non_blocking() -> Self {
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21_700,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// `table! { field: name(types) -> type; ... }`: a struct of the functions, and how it is filled.
macro_rules! table {
    ($($field:ident: $name:literal ($($type:ty),*) -> $answer:ty;)*) => {
        /// The functions that are called, with the types of nccl.h.
        #[derive(Clone, Copy)]
        pub(super) struct Table {
            $(pub(super) $field: unsafe extern "C" fn($($type),*) -> $answer,)*
        }

        impl Table {
            /// Looks all of them up.
            pub(super) fn load(libraries: &Libraries) -> Result<Self> {
                let library = libraries.need(Library::Nccl)?;
                let missing = |name: &CStr| Error::Device {
                    device: "NCCL".into(),
                    reason: format!(
                        "{} {} has no {}",
                        library.path.display(),
                        library.version,
                        name.to_string_lossy()
                    ),
                };
                Ok(Self {
                    // SAFETY: the types are those of nccl.h.
                    $($field: unsafe { library.symbol($name) }.ok_or_else(|| missing($name))?,)*
                })
            }
        }
    };
}

table! {
    get_unique_id: c"ncclGetUniqueId"(*mut ncclUniqueId) -> Status;
    comm_init_rank: c"ncclCommInitRankConfig"(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut Config) -> Status;
    comm_async_error: c"ncclCommGetAsyncError"(ncclComm_t, *mut Status) -> Status;
    comm_finalize: c"ncclCommFinalize"(ncclComm_t) -> Status;
    comm_destroy: c"ncclCommDestroy"(ncclComm_t) -> Status;
    comm_abort: c"ncclCommAbort"(ncclComm_t) -> Status;
    group_start: c"ncclGroupStart"() -> Status;
    group_end: c"ncclGroupEnd"() -> Status;
    send: c"ncclSend"(*const c_void, usize, c_int, c_int, ncclComm_t, CUstream) -> Status;
    recv: c"ncclRecv"(*mut c_void, usize, c_int, c_int, ncclComm_t, CUstream) -> Status;
    all_reduce: c"ncclAllReduce"(*const c_void, *mut c_void, usize, c_int, c_int, ncclComm_t, CUstream) -> Status;
    error_string: c"ncclGetErrorString"(Status) -> *const c_char;
    last_error: c"ncclGetLastError"(ncclComm_t) -> *const c_char;
}
