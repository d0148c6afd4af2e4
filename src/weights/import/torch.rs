//! PyTorch's `.pth` and `.pt` since version 1.6: a zip archive whose member `<root>/data.pkl` is the pickle of a state
//! dictionary, and whose members `<root>/data/<key>` are its storages.

use std::collections::BTreeSet;
use std::path::Path;

use super::pickle::{Tensor, state_dict};
use super::zip::Zip;
use super::{Imported, NamedArray, Number, damaged, elements, torchvision};
use crate::error::{Error, Result};

const PICKLE: &str = "/data.pkl";
const WHOLE: &str = "a state dictionary as torch.save writes it";

/// Reads the arrays of a state dictionary. PyTorch's counters of batches are left out, `module.` (of DataParallel) is
/// taken off the names.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Imported> {
    let zip = Zip::open(path, bytes)?;
    let root = zip.names().find_map(|name| name.strip_suffix(PICKLE));
    let root = root.ok_or_else(|| damaged(path, WHOLE, "an archive without data.pkl"))?;
    let order = format!("{root}/byteorder");
    if zip.names().any(|name| name == order) && zip.read(&order)? != b"little" {
        return Err(damaged(path, WHOLE, "big-endian numbers"));
    }
    let pickle = zip.read(&format!("{root}{PICKLE}"))?;
    let tensors = state_dict(pickle).map_err(|why| damaged(path, WHOLE, why))?;
    check_sizes(&tensors, bytes.len()).map_err(|why| damaged(path, WHOLE, why))?;
    let mut arrays = Vec::new();
    for (name, tensor) in &tensors {
        if tensor.storage.number == Number::I64 {
            continue;
        }
        let storage = zip.read(&format!("{root}/data/{}", tensor.storage.key))?;
        let name = name.strip_prefix("module.").unwrap_or(name);
        let values =
            values(tensor, storage).map_err(|why| damaged(path, WHOLE, format_args!("{name}: {why}")))?;
        arrays.push(NamedArray {
            name: name.into(),
            dims: tensor.dims.clone(),
            values,
        });
    }
    Ok(Imported {
        arrays,
        preprocess: torchvision(),
    })
}

/// The format before version 1.6 has its own error: torchvision's own files of VGG are among them.
pub(super) fn old_format(path: &Path) -> Error {
    let shown = path.display().to_string();
    Error::invalid_hint(
        &shown,
        "the zip format of PyTorch 1.6 and later",
        "the older format, a pickle that cannot be read without running it",
        format_args!(
            "write it again: python3 -c \"import torch; torch.save(torch.load('{shown}', weights_only=True), 'new.pth')\""
        ),
    )
}

/// Names are unique, and all tensors together are no larger than the file: a storage that many share could make a small
/// file large.
fn check_sizes(tensors: &[(String, Tensor)], file: usize) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut total = 0usize;
    for (name, tensor) in tensors {
        if !names.insert(name) {
            return Err(format!("two arrays called {name}"));
        }
        let bytes = elements(&tensor.dims).and_then(|n| n.checked_mul(tensor.storage.number.bytes()));
        let sum = bytes.and_then(|bytes| total.checked_add(bytes));
        total = sum.filter(|sum| *sum <= file).ok_or_else(|| {
            format!(
                "{name} of shape {:?}: more numbers than the file has",
                tensor.dims
            )
        })?;
    }
    Ok(())
}

/// The numbers of a tensor, out of its storage.
fn values(tensor: &Tensor, storage: &[u8]) -> Result<Vec<f32>, String> {
    let Tensor {
        storage: said,
        offset,
        dims,
        strides,
    } = tensor;
    let size = said.number.bytes();
    if said.len.checked_mul(size) != Some(storage.len()) {
        let found = storage.len();
        return Err(format!(
            "a storage of {found} bytes that says it has {} numbers of {size}",
            said.len
        ));
    }
    let mut expected = 1;
    for (side, stride) in dims.iter().zip(strides).rev() {
        if *side != 1 && *stride != expected {
            return Err(format!(
                "strides {strides:?} of shape {dims:?}: save it with .contiguous()"
            ));
        }
        expected *= side; // no overflow: the product is no larger than the file
    }
    let end = offset.checked_add(expected).filter(|end| *end <= said.len);
    let end = end.ok_or_else(|| format!("elements from {offset} on of a storage of {}", said.len))?;
    if dims.len() != strides.len() {
        return Err(format!("{} strides for {} sides", strides.len(), dims.len()));
    }
    Ok(said.number.read(&storage[offset * size..end * size]))
}
