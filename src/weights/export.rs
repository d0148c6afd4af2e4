//! Weights for other programs.

mod onnx;

pub use onnx::write_onnx;
pub(super) use onnx::{ONNX_HASH_KEY, ONNX_KEY};

use std::path::Path;

use super::about::{ABOUT_HASH_KEY, ABOUT_KEY, About};
use super::arrays::{Array, write_arrays};
use super::hash::text_sha256;
use super::model::Model;
use crate::error::Result;

/// Writes safetensors with torchvision's names, which PyTorch loads with `strict=True`, whole or not at all.
pub fn write_safetensors(path: &Path, model: &Model) -> Result<()> {
    let mut metadata = Vec::new();
    if let Some(about) = &model.about {
        let text = text_of(about);
        metadata.push((ABOUT_HASH_KEY, text_sha256(&text)));
        metadata.push((ABOUT_KEY, text));
    }
    let arrays: Vec<Array<'_>> = model
        .network
        .parameters
        .iter()
        .map(|parameter| Array {
            name: parameter.name.clone(),
            dims: parameter.dims.clone(),
            values: &model.weights[parameter.range()],
        })
        .collect();
    write_arrays(path, &metadata, &arrays)
}

fn text_of(about: &About) -> String {
    serde_json::to_string(about).expect("plain data serialises")
}
