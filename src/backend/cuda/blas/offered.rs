//! The algorithms that cuBLASLt's heuristics offer for a product.

use cudarc::cublaslt::sys::{
    self, cublasLtMatmulAlgo_t, cublasLtMatmulHeuristicResult_t as Offer, cublasStatus_t as Status,
};

use super::{Blas, PreferenceOf, Product, ProductPlan};
use crate::backend::Precision;
use crate::backend::cuda::plans::AlgorithmWords;
use crate::error::{Error, Result};

/// How many algorithms are asked for where the best is looked for.
pub(in crate::backend::cuda) const MOST_OFFERED: usize = 16;

impl ProductPlan {
    /// Up to `most` algorithms that keep to the workspace and to a fixed order of sums, the most promising first. At
    /// least one, or an error.
    pub(in crate::backend::cuda) fn offered(
        blas: &Blas,
        precision: Precision,
        product: Product,
        most: usize,
    ) -> Result<Vec<Self>> {
        let asked = Self::described(precision, product, cublasLtMatmulAlgo_t { data: [0; 8] })?;
        let preference = PreferenceOf::new()?;
        let none = Offer {
            algo: cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: Status::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut offers = vec![none; most];
        let mut count = 0;
        // SAFETY: all of them live; there is room for `most` offers.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                blas.handle,
                asked.description.0,
                asked.left.0,
                asked.right.0,
                asked.out.0,
                asked.out.0,
                preference.0,
                most as i32,
                offers.as_mut_ptr(),
                &raw mut count,
            )
        };
        offers.truncate(count.unsigned_abs() as usize);
        offers.retain(|offer| offer.state == Status::CUBLAS_STATUS_SUCCESS);
        if status != Status::CUBLAS_STATUS_SUCCESS || offers.is_empty() {
            return Err(Error::Device {
                device: "cuBLASLt".into(),
                reason: format!("no algorithm for {product:?}: {status:?}"),
            });
        }
        let plans = offers
            .into_iter()
            .map(|offer| Self::described(precision, product, offer.algo));
        plans.collect()
    }

    /// The algorithm as it is stored.
    pub(in crate::backend::cuda) fn words(&self) -> AlgorithmWords {
        self.algorithm.data
    }
}
