//! The kernels of `kernels/`, loaded on a device: a field for each, by name.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule};

use super::device::{DeviceFacts, failed};
use super::image::{self, MODULES};
use super::libraries::Libraries;
use crate::error::{Error, Result};

/// Defines [`Functions`]: a field for each kernel, loaded from the module that has it.
macro_rules! kernels {
    ($($module:literal: $($kernel:ident),+;)+) => {
        /// Every kernel, ready to be launched on one device.
        pub(super) struct Functions { $($(pub(super) $kernel: CudaFunction,)+)+ }

        impl Functions {
            /// Loads all modules and finds every kernel in them.
            pub(super) fn load(
                context: &Arc<CudaContext>,
                libraries: &Libraries,
                facts: &DeviceFacts,
            ) -> Result<Self> {
                let modules = Modules::load(context, libraries, facts)?;
                Ok(Self { $($($kernel: modules.function($module, stringify!($kernel))?,)+)+ })
            }
        }
    };
}

kernels! {
    "batch_norm": batch_norm_mean_parts, batch_norm_mean, batch_norm_variance_parts, batch_norm_variance,
        batch_norm_evaluation, batch_norm_forward, batch_norm_backward_parts, batch_norm_backward_sums,
        batch_norm_backward;
    "bf16": fp32_to_bf16, bf16_to_fp32;
    "bias_gradient": bias_gradient_parts, bias_gradient;
    "dropout": dropout_forward, dropout_backward, dropout_backward_masked;
    "finish_input": finish_input;
    "fold": fold, fold_nhwc;
    "is_finite": is_finite;
    "layout": nhwc_from_nchw, nchw_from_nhwc;
    "lrn": lrn_forward, lrn_backward;
    "max_pool": max_pool_forward, max_pool_backward;
    "relu": relu_forward, relu_backward;
    "score_map_average": score_map_average;
    "softmax_cross_entropy": softmax_cross_entropy_forward, softmax_cross_entropy_backward;
    "tree_add": tree_add;
    "update": update_parameters, update_statistics;
}

/// All modules, loaded on one device.
struct Modules<'a> {
    device: String,
    loaded: Vec<(&'a str, Arc<CudaModule>)>,
}

impl Modules<'_> {
    fn load(context: &Arc<CudaContext>, libraries: &Libraries, facts: &DeviceFacts) -> Result<Self> {
        let device = format!("cuda:{}", facts.ordinal);
        let load = |module: &'static image::Module| {
            let code = image::image(module, libraries, facts)?;
            let loaded = context.load_module(cudarc::nvrtc::Ptx::from_binary(code));
            let loaded = loaded
                .map_err(|why| failed(&device, &format!("loading kernels/{}.cu", module.name), &why))?;
            Ok((module.name, loaded))
        };
        let loaded = MODULES.iter().map(load).collect::<Result<_>>()?;
        Ok(Self { device, loaded })
    }

    fn function(&self, module: &str, kernel: &str) -> Result<CudaFunction> {
        let missing = |why: String| Error::Device {
            device: self.device.clone(),
            reason: format!("kernel {kernel} of kernels/{module}.cu: {why}"),
        };
        let found = self.loaded.iter().find(|(name, _)| *name == module);
        let (_, module) = found.ok_or_else(|| missing("no such module".into()))?;
        module
            .load_function(kernel)
            .map_err(|why| missing(format!("{:?}", why.0)))
    }
}
