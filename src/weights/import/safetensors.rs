//! Safetensors with torchvision's names, in any precision.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{Imported, NamedArray, Number, Origin, torchvision};
use crate::error::Result;
use crate::weights::damaged;
use crate::weights::load::read_header;
use crate::weights::shown::{reason, shown};

const WHOLE: &str = "a whole safetensors file of f64, f32, f16 or bf16 arrays";

/// Reads all arrays but momentum and PyTorch's counters. Our own files say what travels with them.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Imported> {
    let (_, about) = read_header(path, bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, WHOLE, reason(error)))?;
    let mut arrays = Vec::new();
    for (name, view) in file.tensors() {
        let number = match view.dtype() {
            Dtype::F64 => Number::F64,
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::BF16 => Number::Bf16,
            Dtype::I64 => continue,
            other => {
                return Err(damaged(
                    path,
                    WHOLE,
                    format_args!("{} of {other:?}", shown(&name)),
                ));
            }
        };
        if name.starts_with(crate::weights::MOMENTUM_PREFIX) {
            continue;
        }
        let values = number
            .read(view.data())
            .map_err(|why| damaged(path, WHOLE, format_args!("{}: {why}", shown(&name))))?;
        arrays.push(NamedArray {
            name: name.strip_prefix("module.").unwrap_or(&name).into(),
            dims: view.shape().to_vec(),
            values,
        });
    }
    let origin = match about {
        Some(about) => Origin::Ours(Box::new(about)),
        None => Origin::Theirs(torchvision()),
    };
    Ok(Imported { arrays, origin })
}
