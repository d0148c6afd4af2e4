//! Matrix products through cuBLASLt; sums are f32, whatever the factors are.
//!
//! cuBLAS thinks in columns, we in rows: a row-major (m, n) matrix is a column-major (n, m) one. So `C = A B` in rows is
//! asked for as `C^T = B^T A^T` in columns, with no data moved.

mod offered;

use std::ffi::c_void;

use cudarc::cublas::sys::cublasOperation_t as Operation;
use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulAlgoConfigAttributes_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t,
    cublasLtReductionScheme_t, cudaDataType,
};
use cudarc::driver::CudaStream;

use super::dnn::DevicePtr;
use super::launch::Element;
use crate::backend::Precision;
use crate::error::{Error, Result};
use crate::network::PARAMETER_ALIGNMENT;

pub(super) use self::offered::MOST_OFFERED;

/// Workspace that a product may use: part of what the choice of the algorithm depends on.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// Bytes that every matrix is aligned to, at least: an array of parameters, in the weights' copy in bf16.
const ALIGNMENT: u32 = (PARAMETER_ALIGNMENT * Element::Bf16.bytes()) as u32;

/// cuBLASLt. Knows no stream: every call says it.
pub(super) struct Blas {
    handle: cublasLtHandle_t,
}

// SAFETY: "thread safe and its functions can be called from multiple host threads, even with the same handle"
// (cuBLAS manual, 2.1.2).
unsafe impl Send for Blas {}

impl Blas {
    pub(super) fn new() -> Result<Self> {
        let handle = lt::create_handle().map_err(failed("creating a handle"))?;
        Ok(Self { handle })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by create_handle and not destroyed yet. A failure at this point has nobody to tell.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

fn failed(doing: &'static str) -> impl Fn(CublasError) -> Error {
    move |why| Error::Device {
        device: "cuBLASLt".into(),
        reason: format!("{doing}: {:?}", why.0),
    }
}

/// Whether a factor is used as it lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Factor {
    Plain,
    Transposed,
}

/// What is done to the product before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Finish {
    /// Nothing.
    None,
    /// A bias per column is added.
    Bias,
    /// A bias per column is added; then max(x, 0).
    BiasRelu,
}

/// `C (m, n) = A (m, k) B (k, n)`, all row-major and dense; a transposed factor lies in memory as (k, m) or (n, k).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Product {
    /// Type of A and B.
    pub(super) factors: Element,
    /// Type of C and of the bias.
    pub(super) result: Element,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a: Factor,
    pub(super) b: Factor,
    pub(super) finish: Finish,
}

/// The memory of one product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrices {
    pub(super) a: DevicePtr,
    pub(super) b: DevicePtr,
    /// Overwritten.
    pub(super) c: DevicePtr,
    /// (n), of C's type; ignored where [`Finish::None`].
    pub(super) bias: DevicePtr,
}

/// A product with the algorithm that computes it.
pub(super) struct ProductPlan {
    product: Product,
    description: Description,
    left: Layout,
    right: Layout,
    out: Layout,
    algorithm: cublasLtMatmulAlgo_t,
}

impl ProductPlan {
    /// Takes the heuristics' first algorithm that needs no more than the workspace and does not split sums in an order
    /// that varies: a function of (cuBLAS's version, device, shape), never of a measurement.
    pub(super) fn new(blas: &Blas, precision: Precision, product: Product) -> Result<Self> {
        Ok(Self::offered(blas, precision, product, 1)?.swap_remove(0))
    }

    /// A product to be computed by an algorithm.
    fn described(precision: Precision, product: Product, algorithm: cublasLtMatmulAlgo_t) -> Result<Self> {
        let Product { factors, m, n, k, .. } = product;
        let stored = |rows: usize, columns: usize, factor: Factor| match factor {
            Factor::Plain => Layout::of_row_major(factors, rows, columns),
            Factor::Transposed => Layout::of_row_major(factors, columns, rows),
        };
        Ok(Self {
            product,
            description: Description::new(precision, product)?,
            // B^T is the left factor of the column-major product.
            left: stored(k, n, product.b)?,
            right: stored(m, k, product.a)?,
            out: Layout::of_row_major(product.result, m, n)?,
            algorithm,
        })
    }

    /// cuBLASLt's number of the algorithm (of which tile, stages and more are chosen besides), where it says it.
    pub(super) fn algorithm_id(&self) -> Option<i32> {
        let mut id = 0i32;
        let mut written = 0;
        // SAFETY: writes at most four bytes.
        let said = unsafe {
            sys::cublasLtMatmulAlgoConfigGetAttribute(
                &raw const self.algorithm,
                cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_ID,
                (&raw mut id).cast(),
                size_of::<i32>(),
                &raw mut written,
            )
        };
        (said == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then_some(id)
    }

    /// Enqueues the product.
    ///
    /// # Safety
    ///
    /// The matrices must have the product's sizes, the workspace [`WORKSPACE_BYTES`], and all stay allocated until the
    /// stream has executed it.
    pub(super) unsafe fn execute(
        &self,
        blas: &Blas,
        stream: &CudaStream,
        matrices: Matrices,
        workspace: DevicePtr,
    ) -> Result<()> {
        if self.product.finish != Finish::None {
            self.description
                .set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &matrices.bias)?;
        }
        let pointer = |address: DevicePtr| address as *mut c_void;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the caller vouches for the memory; the factors live until the call returns.
        let done = unsafe {
            lt::matmul(
                blas.handle,
                self.description.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                pointer(matrices.b),
                self.left.0,
                pointer(matrices.a),
                self.right.0,
                pointer(matrices.c),
                self.out.0,
                pointer(matrices.c),
                self.out.0,
                &raw const self.algorithm,
                pointer(workspace),
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        };
        done.map_err(failed("a matrix product"))
    }
}

/// What is multiplied how; destroyed on drop.
struct Description(cublasLtMatmulDesc_t);

// SAFETY: plain memory of cuBLAS's, used by one thread at a time.
unsafe impl Send for Description {}

impl Description {
    fn new(precision: Precision, product: Product) -> Result<Self> {
        let compute = match precision {
            Precision::Tf32 => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            Precision::Fp32 | Precision::Bf16 => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let made = lt::create_matmul_desc(compute, cudaDataType::CUDA_R_32F);
        let description = Self(made.map_err(failed("describing a product"))?);
        let operation = |factor| match factor {
            Factor::Plain => Operation::CUBLAS_OP_N,
            Factor::Transposed => Operation::CUBLAS_OP_T,
        };
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(product.b))?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(product.a))?;
        let epilogue = match product.finish {
            Finish::None => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Finish::Bias => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            Finish::BiasRelu => Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
        };
        description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        Ok(description)
    }

    fn set<T: Copy>(&self, attribute: Attribute, value: &T) -> Result<()> {
        let bytes = (&raw const *value).cast();
        // SAFETY: cuBLAS copies as many bytes as it is told, of the type that the attribute has.
        let done = unsafe { lt::set_matmul_desc_attribute(self.0, attribute, bytes, size_of::<T>()) };
        done.map_err(failed("describing a product"))
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: not destroyed yet.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

/// A matrix in memory; destroyed on drop.
struct Layout(cublasLtMatrixLayout_t);

// SAFETY: as for `Description`.
unsafe impl Send for Layout {}

impl Layout {
    fn of_row_major(element: Element, rows: usize, columns: usize) -> Result<Self> {
        let element = match element {
            Element::F32 => cudaDataType::CUDA_R_32F,
            Element::Bf16 => cudaDataType::CUDA_R_16BF,
        };
        let made = lt::create_matrix_layout(element, columns as u64, rows as u64, columns as i64);
        made.map(Self).map_err(failed("describing a matrix"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: not destroyed yet.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm must keep to; destroyed on drop.
struct PreferenceOf(cublasLtMatmulPreference_t);

impl PreferenceOf {
    fn new() -> Result<Self> {
        let preference = Self(lt::create_matmul_pref().map_err(failed("stating preferences"))?);
        preference.set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &WORKSPACE_BYTES,
        )?;
        for matrix in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(matrix, &ALIGNMENT)?;
        }
        // Split sums may only be added in a fixed order: not in place, where the order is that of arrival.
        let ordered = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &ordered)?;
        Ok(preference)
    }

    fn set<T: Copy>(&self, preference: Preference, value: &T) -> Result<()> {
        let bytes = (&raw const *value).cast();
        // SAFETY: cuBLAS copies as many bytes as it is told, of the type that the preference has.
        let done = unsafe { lt::set_matmul_pref_attribute(self.0, preference, bytes, size_of::<T>()) };
        done.map_err(failed("stating preferences"))
    }
}

impl Drop for PreferenceOf {
    fn drop(&mut self) {
        // SAFETY: not destroyed yet.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}
