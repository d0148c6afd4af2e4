//! The kernels of `kernels/`, loaded on a device: a field for each, by name.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule};

use super::device::{DeviceFacts, failed};
use super::image::{self, MODULES};
use super::launch::Element;
use super::libraries::Libraries;
use crate::error::{Error, Result};

/// Defines [`Functions`]: a field for each kernel, loaded from the module that has it. After `each`, kernels that exist
/// for each type of elements; after `pairs`, from each to each.
macro_rules! kernels {
    ($($module:literal: $($kernel:ident),* $(; each $($each:ident),+)? $(; pairs $($pair:ident),+)?;)+) => {
        /// Every kernel, ready to be launched on one device.
        pub(super) struct Functions {
            $($(pub(super) $kernel: CudaFunction,)*
            $($(pub(super) $each: OfElement,)+)?
            $($(pub(super) $pair: OfPair,)+)?)+
        }

        impl Functions {
            /// Loads all modules and finds every kernel in them.
            pub(super) fn load(
                context: &Arc<CudaContext>,
                libraries: &Libraries,
                facts: &DeviceFacts,
            ) -> Result<Self> {
                let modules = Modules::load(context, libraries, facts)?;
                Ok(Self {
                    $($($kernel: modules.function($module, stringify!($kernel))?,)*
                    $($($each: OfElement::load(&modules, $module, stringify!($each))?,)+)?
                    $($($pair: OfPair::load(&modules, $module, stringify!($pair))?,)+)?)+
                })
            }
        }
    };
}

kernels! {
    "average_pool": ; each average_pool;
    "batch_norm": batch_norm_mean, batch_norm_variance, batch_norm_evaluation, batch_norm_backward_sums;
        each batch_norm_mean_parts, batch_norm_variance_parts, batch_norm_forward, batch_norm_backward_parts,
        batch_norm_backward;
    "bf16": fp32_to_bf16, bf16_to_fp32;
    "bias_gradient": bias_gradient; each bias_gradient_parts;
    "dropout": ; each dropout_forward, dropout_backward, dropout_backward_masked;
    "finish_input": ; each finish_input;
    "fold": fold; each fold_nhwc;
    "is_finite": is_finite;
    "layout": ; pairs nhwc_from_nchw, nchw_from_nhwc;
    "lrn": ; each lrn_forward, lrn_backward;
    "max_pool": ; each max_pool_forward, max_pool_backward;
    "relu": ; each relu_forward, relu_backward;
    "softmax_cross_entropy": ; each softmax_cross_entropy_forward, softmax_cross_entropy_backward;
    "tree_add": tree_add;
    "update": update_parameters, update_statistics;
    "windows": ; each windows;
}

/// A kernel for each type of elements: EXPORT in element.cuh.
pub(super) struct OfElement {
    f32: CudaFunction,
    bf16: CudaFunction,
}

impl OfElement {
    fn load(modules: &Modules<'_>, module: &str, kernel: &str) -> Result<Self> {
        Ok(Self {
            f32: modules.function(module, kernel)?,
            bf16: modules.function(module, &format!("{kernel}_bf16"))?,
        })
    }

    /// The kernel whose elements are of this type.
    pub(super) fn of(&self, element: Element) -> &CudaFunction {
        match element {
            Element::F32 => &self.f32,
            Element::Bf16 => &self.bf16,
        }
    }
}

/// A kernel from each type of elements to each: EXPORT_PAIRS in element.cuh.
pub(super) struct OfPair {
    same: OfElement,
    narrowing: CudaFunction,
    widening: CudaFunction,
}

impl OfPair {
    fn load(modules: &Modules<'_>, module: &str, kernel: &str) -> Result<Self> {
        Ok(Self {
            same: OfElement::load(modules, module, kernel)?,
            narrowing: modules.function(module, &format!("{kernel}_f32_bf16"))?,
            widening: modules.function(module, &format!("{kernel}_bf16_f32"))?,
        })
    }

    /// The kernel from the first type to the second.
    pub(super) fn of(&self, elements: [Element; 2]) -> &CudaFunction {
        match elements {
            [Element::F32, Element::Bf16] => &self.narrowing,
            [Element::Bf16, Element::F32] => &self.widening,
            [Element::F32, Element::F32] => self.same.of(Element::F32),
            [Element::Bf16, Element::Bf16] => self.same.of(Element::Bf16),
        }
    }
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
