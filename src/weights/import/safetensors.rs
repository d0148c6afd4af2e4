//! Safetensors with torchvision's names, in any precision.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{Imported, NamedArray, Number, damaged, torchvision};
use crate::error::Result;

const WHOLE: &str = "a whole safetensors file of f64, f32, f16 or bf16 arrays";

/// Reads all arrays but momentum and PyTorch's counters.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Imported> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, WHOLE, error))?;
    let mut arrays = Vec::new();
    for (name, view) in file.tensors() {
        let number = match view.dtype() {
            Dtype::F64 => Number::F64,
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::BF16 => Number::Bf16,
            Dtype::I64 => continue,
            other => return Err(damaged(path, WHOLE, format_args!("{name} of {other:?}"))),
        };
        if name.starts_with(crate::weights::MOMENTUM_PREFIX) {
            continue;
        }
        arrays.push(NamedArray {
            name: name.strip_prefix("module.").unwrap_or(&name).into(),
            dims: view.shape().to_vec(),
            values: number.read(view.data()),
        });
    }
    Ok(Imported {
        arrays,
        preprocess: torchvision(),
    })
}
