//! The part of cuBLASLt 13 that `verydeep` calls: matrix products of f32 (factors as they are or rounded to TF32) and of
//! bf16 (to bf16 or f32), with the epilogues bias and bias + ReLU.
//!
//! Matrices are column-major: element (i, j) lies at i + j * ld.

mod product;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::cublas::sys::cublasOperation_t as Operation;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t as Epilogue, cublasLtMatmulAlgoConfigAttributes_t as Config,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t as Heuristic,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasStatus_t as Status, cudaDataType,
};

use self::product::{Description, Layout, Product};
use crate::library::{self, Access, Float, Work};

/// 13.0.0, as cublasLtGetVersion says it.
const VERSION: usize = 130_000;

/// What the simulated algorithm wants, so that a missing workspace is noticed.
const WORKSPACE: usize = 4096;

/// Marks an algorithm as one that the simulated heuristics gave; its number is the lowest byte.
const ALGORITHM: u64 = 0x6375_6461_7369_6d00;

/// "The default is 256 bytes" (cublasLtMatmulPreferenceAttributes_t, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES): what
/// the heuristics may rely on where nothing else was said.
const ALIGNMENT: u32 = 256;

/// How many algorithms the simulated heuristics give. They compute the same.
const ALGORITHMS: usize = 2;

type Id = usize;

#[derive(Debug, Clone, Copy)]
enum Object {
    Handle,
    Description(Description),
    Layout(Layout),
    Preference {
        workspace: usize,
        /// Of A, B, C and D.
        alignments: [u32; 4],
    },
}

#[derive(Default)]
struct State {
    next: Id,
    objects: HashMap<Id, Object>,
}

fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Objects that were never destroyed.
pub(crate) fn leaks() -> usize {
    state().objects.len()
}

fn status(outcome: Result<(), Status>) -> c_int {
    match outcome {
        Ok(()) => 0,
        Err(status) => status as c_int,
    }
}

const INVALID: Status = Status::CUBLAS_STATUS_INVALID_VALUE;
const UNSUPPORTED: Status = Status::CUBLAS_STATUS_NOT_SUPPORTED;

impl State {
    fn add(&mut self, object: Object) -> *mut c_void {
        self.next += 16;
        self.objects.insert(self.next, object);
        self.next as *mut c_void
    }

    fn layout(&self, id: *mut c_void) -> Result<Layout, Status> {
        match self.objects.get(&(id as Id)) {
            Some(Object::Layout(layout)) => Ok(*layout),
            _ => Err(INVALID),
        }
    }

    fn description(&self, id: *mut c_void) -> Result<Description, Status> {
        match self.objects.get(&(id as Id)) {
            Some(Object::Description(description)) => Ok(*description),
            _ => Err(INVALID),
        }
    }

    fn remove(&mut self, id: *mut c_void, is: impl Fn(&Object) -> bool) -> Result<(), Status> {
        match self.objects.get(&(id as Id)) {
            Some(object) if is(object) => {
                self.objects.remove(&(id as Id));
                Ok(())
            }
            _ => Err(INVALID),
        }
    }
}

/// `size_t cublasLtGetVersion(void)`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

/// # Safety
///
/// `handle` points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut *mut c_void) -> c_int {
    if !library::can_start() {
        return Status::CUBLAS_STATUS_NOT_INITIALIZED as c_int;
    }
    // SAFETY: the caller vouches for it.
    unsafe { *handle = state().add(Object::Handle) };
    0
}

/// `cublasStatus_t cublasLtDestroy(cublasLtHandle_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(handle: *mut c_void) -> c_int {
    status(state().remove(handle, |object| matches!(object, Object::Handle)))
}

/// # Safety
///
/// `description` points to a description.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    description: *mut *mut c_void,
    compute: c_int,
    scale: c_int,
) -> c_int {
    let rounding: fn(f32) -> f32 = match compute {
        _ if compute == cublasComputeType_t::CUBLAS_COMPUTE_32F as c_int => |factor| factor,
        _ if compute == cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32 as c_int => library::to_tf32,
        _ => return UNSUPPORTED as c_int,
    };
    if scale != cudaDataType::CUDA_R_32F as c_int {
        return UNSUPPORTED as c_int;
    }
    let made = Description {
        rounding,
        transposed: [false; 2],
        epilogue: Epilogue::CUBLASLT_EPILOGUE_DEFAULT as u32,
        bias: 0,
    };
    // SAFETY: the caller vouches for it.
    unsafe { *description = state().add(Object::Description(made)) };
    0
}

/// `cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescDestroy(description: *mut c_void) -> c_int {
    status(state().remove(description, |object| matches!(object, Object::Description(_))))
}

/// # Safety
///
/// `bytes` points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: *mut c_void,
    attribute: c_int,
    bytes: *const c_void,
    size: usize,
) -> c_int {
    let mut state = state();
    let Some(Object::Description(description)) = state.objects.get_mut(&(description as Id)) else {
        return INVALID as c_int;
    };
    let is = |wanted: Attribute, width: usize| attribute == wanted as c_int && size == width;
    // SAFETY: the caller vouches for the bytes; each is read only where `size` says that it is there.
    unsafe {
        if is(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, 4) || is(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, 4) {
            let which = usize::from(attribute == Attribute::CUBLASLT_MATMUL_DESC_TRANSB as c_int);
            match bytes.cast::<u32>().read_unaligned() {
                op if op == Operation::CUBLAS_OP_N as u32 => description.transposed[which] = false,
                op if op == Operation::CUBLAS_OP_T as u32 => description.transposed[which] = true,
                _ => return UNSUPPORTED as c_int,
            }
        } else if is(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, 4) {
            let epilogue = bytes.cast::<u32>().read_unaligned();
            let known = [
                Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
                Epilogue::CUBLASLT_EPILOGUE_BIAS,
                Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
            ];
            if !known.iter().any(|known| *known as u32 == epilogue) {
                return UNSUPPORTED as c_int;
            }
            description.epilogue = epilogue;
        } else if is(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8) {
            description.bias = bytes.cast::<u64>().read_unaligned();
        } else {
            return UNSUPPORTED as c_int;
        }
    }
    0
}

/// # Safety
///
/// `layout` points to a layout.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut c_void,
    data_type: c_int,
    rows: u64,
    columns: u64,
    ld: i64,
) -> c_int {
    let float = match data_type {
        _ if data_type == cudaDataType::CUDA_R_32F as c_int => Float::F32,
        _ if data_type == cudaDataType::CUDA_R_16BF as c_int => Float::Bf16,
        _ => return UNSUPPORTED as c_int,
    };
    if rows == 0 || columns == 0 || ld < rows as i64 {
        return INVALID as c_int;
    }
    let made = Layout {
        float,
        rows: rows as usize,
        columns: columns as usize,
        ld: ld as usize,
    };
    // SAFETY: the caller vouches for it.
    unsafe { *layout = state().add(Object::Layout(made)) };
    0
}

/// `cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut c_void) -> c_int {
    status(state().remove(layout, |object| matches!(object, Object::Layout(_))))
}

/// # Safety
///
/// `preference` points to a preference.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut *mut c_void) -> c_int {
    let made = Object::Preference {
        workspace: 0,
        alignments: [ALIGNMENT; 4],
    };
    // SAFETY: the caller vouches for it.
    unsafe { *preference = state().add(made) };
    0
}

/// `cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t)`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut c_void) -> c_int {
    status(state().remove(preference, |object| matches!(object, Object::Preference { .. })))
}

/// # Safety
///
/// `bytes` points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut c_void,
    attribute: c_int,
    bytes: *const c_void,
    size: usize,
) -> c_int {
    let mut state = state();
    let Some(Object::Preference {
        workspace,
        alignments,
    }) = state.objects.get_mut(&(preference as Id))
    else {
        return INVALID as c_int;
    };
    let of_matrices = [
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    let matrix = of_matrices.iter().position(|of| *of as c_int == attribute);
    if let Some(matrix) = matrix.filter(|_| size == 4) {
        // SAFETY: the caller vouches for the four bytes.
        alignments[matrix] = unsafe { bytes.cast::<u32>().read_unaligned() };
        return 0;
    }
    if attribute == Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as c_int && size == 8 {
        // SAFETY: the caller vouches for the eight bytes.
        *workspace = unsafe { bytes.cast::<usize>().read_unaligned() };
        0
    } else if attribute == Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as c_int && size == 4 {
        // The one simulated algorithm splits no sums: every mask allows it.
        0
    } else {
        UNSUPPORTED as c_int
    }
}

/// # Safety
///
/// `results` has room for `requested` results, `found` for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: *mut c_void,
    description: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    preference: *mut c_void,
    requested: c_int,
    results: *mut Heuristic,
    found: *mut c_int,
) -> c_int {
    let state = state();
    let check = || {
        if !matches!(state.objects.get(&(handle as Id)), Some(Object::Handle)) {
            return Err(Status::CUBLAS_STATUS_NOT_INITIALIZED);
        }
        let layouts = [a, b, c, d].map(|layout| state.layout(layout));
        let [a, b, c, d] = layouts;
        Product::new(state.description(description)?, a?, b?, c?, d?)?;
        match state.objects.get(&(preference as Id)) {
            Some(Object::Preference {
                workspace,
                alignments,
            }) if *workspace >= WORKSPACE => Ok(*alignments),
            Some(Object::Preference { .. }) => Err(UNSUPPORTED),
            _ => Err(INVALID),
        }
    };
    let outcome = check();
    // SAFETY: the caller vouches for the room.
    unsafe {
        let (given, alignments) = match outcome {
            Ok(alignments) => (ALGORITHMS.min(requested.max(0) as usize), alignments),
            Err(_) => (0, [0; 4]),
        };
        for number in 0..given {
            let mut result: Heuristic = std::mem::zeroed();
            result.algo.data[0] = ALGORITHM + number as u64;
            result.algo.data[1] = packed(alignments);
            result.workspaceSize = WORKSPACE;
            result.wavesCount = 1.0;
            *results.add(number) = result;
        }
        *found = given as c_int;
    }
    status(outcome.map(|_| ()))
}

/// The alignments that an algorithm relies on, as it carries them: 16 bits each.
fn packed(alignments: [u32; 4]) -> u64 {
    let word = |packed: u64, alignment: u32| packed << 16 | u64::from(alignment.min(0xffff));
    alignments.into_iter().fold(0, word)
}

/// Whether the matrices have the alignments that an algorithm relies on.
fn are_aligned(packed: u64, [a, b, c, d]: [u64; 4]) -> bool {
    let alignment = |place: u32| (packed >> (48 - 16 * place) & 0xffff).max(1);
    (0..)
        .zip([a, b, c, d])
        .all(|(place, address)| address.is_multiple_of(alignment(place)))
}

/// What an algorithm is made of: its number, which the simulated one has in its first word.
///
/// # Safety
///
/// `algorithm` points to an algorithm, `value` to `size` bytes, `written` to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoConfigGetAttribute(
    algorithm: *const u64,
    attribute: c_int,
    value: *mut c_void,
    size: usize,
    written: *mut usize,
) -> c_int {
    if attribute != Config::CUBLASLT_ALGO_CONFIG_ID as c_int || size != size_of::<i32>() {
        return UNSUPPORTED as c_int;
    }
    // SAFETY: the caller vouches for all three.
    unsafe {
        value.cast::<i32>().write((*algorithm & 0xff) as i32);
        *written = size;
    }
    0
}

/// D = alpha op(A) op(B) + beta C with alpha = 1, beta = 0 and the description's epilogue, on `stream`.
///
/// # Safety
///
/// alpha and beta point to f32; the algorithm, of eight words, comes from the heuristics.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    handle: *mut c_void,
    description: *mut c_void,
    alpha: *const f32,
    a: u64,
    a_layout: *mut c_void,
    b: u64,
    b_layout: *mut c_void,
    beta: *const f32,
    c: u64,
    c_layout: *mut c_void,
    d: u64,
    d_layout: *mut c_void,
    algorithm: *const u64,
    workspace: u64,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> c_int {
    // SAFETY: the caller vouches for all three.
    let (alpha, beta, algorithm) = unsafe { (*alpha, *beta, algorithm.cast::<[u64; 2]>().as_ref().copied()) };
    let make = || {
        let state = state();
        if !matches!(state.objects.get(&(handle as Id)), Some(Object::Handle)) {
            return Err(Status::CUBLAS_STATUS_NOT_INITIALIZED);
        }
        let layout = |layout| state.layout(layout);
        let product = Product::new(
            state.description(description)?,
            layout(a_layout)?,
            layout(b_layout)?,
            layout(c_layout)?,
            layout(d_layout)?,
        )?;
        let given = |algorithm: u64| (ALGORITHM..ALGORITHM + ALGORITHMS as u64).contains(&algorithm);
        let Some([number, alignments]) = algorithm else {
            return Err(UNSUPPORTED);
        };
        if (alpha, beta) != (1.0, 0.0) || !given(number) || workspace_bytes < WORKSPACE {
            return Err(UNSUPPORTED);
        }
        if !are_aligned(alignments, [a, b, c, d]) {
            return Err(INVALID);
        }
        Ok(product)
    };
    let product = match make() {
        Ok(product) => product,
        Err(why) => return why as c_int,
    };
    let access = |address, bytes| Access { address, bytes };
    let mut reads = vec![access(a, product.a.bytes()), access(b, product.b.bytes())];
    if product.has_bias() {
        reads.push(access(
            product.description.bias,
            product.d.rows * product.bias_float().bytes(),
        ));
    }
    let work = Work {
        name: "cublasLtMatmul".into(),
        reads,
        writes: vec![access(d, product.d.bytes()), access(workspace, WORKSPACE)],
        // SAFETY: the driver has checked the ranges, which are those of the layouts.
        run: Box::new(move || unsafe { product.run(a, b, d) }),
    };
    match library::enqueue(stream as usize, work) {
        Ok(()) => 0,
        Err(_) => Status::CUBLAS_STATUS_EXECUTION_FAILED as c_int,
    }
}
