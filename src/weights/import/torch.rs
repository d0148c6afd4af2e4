//! PyTorch's `.pth` and `.pt` since version 1.6: a zip archive whose member `<root>/data.pkl` is the pickle of a state
//! dictionary, and whose members `<root>/data/<key>` are its storages.

use std::collections::BTreeSet;
use std::path::Path;

use super::pickle::{Refusal, Tensor, state_dict};
use super::zip::Zip;
use super::{Imported, NamedArray, Number, Origin, elements, torchvision};
use crate::error::{Error, Result};
use crate::weights::damaged;
use crate::weights::shown::{shown, sides};

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
    let tensors = state_dict(pickle).map_err(|refusal| match refusal {
        Refusal::Damaged(why) => damaged(path, WHOLE, why),
        Refusal::MoreThanWeights(why) => Error::invalid_hint(
            path.display(),
            WHOLE,
            why,
            "save the weights alone, in the program that made it: torch.save(model.state_dict(), 'weights.pth')",
        ),
    })?;
    check_sizes(&tensors, bytes.len()).map_err(|why| damaged(path, WHOLE, why))?;
    let mut arrays = Vec::new();
    for (name, tensor) in &tensors {
        if tensor.storage.number == Number::I64 {
            continue;
        }
        check_rows(path, name, tensor)?;
        let storage = zip.read(&format!("{root}/data/{}", tensor.storage.key))?;
        let name = name.strip_prefix("module.").unwrap_or(name);
        let values = values(tensor, storage)
            .map_err(|why| damaged(path, WHOLE, format_args!("{}: {why}", shown(name))))?;
        arrays.push(NamedArray {
            name: name.into(),
            dims: tensor.dims.clone(),
            values,
        });
    }
    Ok(Imported {
        arrays,
        origin: Origin::Theirs(torchvision()),
    })
}

/// How the pickles of the format before version 1.6 begin, behind protocol and frame: with this number, as binary
/// protocols write it and as text.
const OLD: &[u8] = &[
    0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];
const OLD_TEXT: &[u8] = b"L119547037146038801333356L";

/// The error of a file that is a pickle and no archive. That of PyTorch before version 1.6 can be written again:
/// torchvision's own files of VGG are among them.
pub(super) fn bare_pickle(path: &Path, bytes: &[u8]) -> Option<Error> {
    let start = &bytes[..bytes.len().min(32)];
    let is_old = start.starts_with(OLD_TEXT) || start.windows(OLD.len()).any(|window| window == OLD);
    let advice = match start {
        _ if is_old => format!(
            "write it again: python3 -c \"import sys, torch; \
             torch.save(torch.load(sys.argv[1], weights_only=True), 'new.pth')\" {}",
            quoted(&path.to_string_lossy())
        ),
        [0x80, 2..=5, ..] => "save the weights with torch.save(model.state_dict(), 'weights.pth')".into(),
        _ => return None,
    };
    let found = if is_old {
        "the older format, a pickle that cannot be read without running it"
    } else {
        "a bare pickle, which cannot be read without running it"
    };
    Some(Error::invalid_hint(
        path.display(),
        "the zip format of PyTorch 1.6 and later",
        found,
        advice,
    ))
}

/// A word as a shell takes it, whatever is in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    if word.chars().all(is_plain) && !word.starts_with('-') {
        return word.into();
    }
    if word.chars().any(char::is_control) {
        return "FILE".into(); // no line could be pasted
    }
    let dash = if word.starts_with('-') { "./" } else { "" };
    format!("'{dash}{}'", word.replace('\'', "'\\''"))
}

/// Names are unique, and all tensors together are no larger than the file: a storage that many share could make a small
/// file large.
fn check_sizes(tensors: &[(String, Tensor)], file: usize) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut total = 0usize;
    for (name, tensor) in tensors {
        if !names.insert(name) {
            return Err(format!("two arrays called {}", shown(name)));
        }
        let bytes = elements(&tensor.dims).and_then(|n| n.checked_mul(tensor.storage.number.bytes()));
        let sum = bytes.and_then(|bytes| total.checked_add(bytes));
        total = sum.filter(|sum| *sum <= file).ok_or_else(|| {
            format!(
                "{} of shape {}: more numbers than the file has",
                shown(name),
                sides(&tensor.dims)
            )
        })?;
    }
    Ok(())
}

/// Refuses tensors whose rows do not follow each other in the storage.
fn check_rows(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    let Tensor { dims, strides, .. } = tensor;
    if dims.len() != strides.len() {
        let found = format_args!(
            "{}: {} strides for {} sides",
            shown(name),
            strides.len(),
            dims.len()
        );
        return Err(damaged(path, WHOLE, found));
    }
    let mut expected = 1;
    for (side, stride) in dims.iter().zip(strides).rev() {
        if *side != 1 && *stride != expected {
            return Err(Error::invalid_hint(
                path.display(),
                "arrays whose rows follow each other",
                format_args!("{}: strides {strides:?} of shape {dims:?}", shown(name)),
                "save it again: torch.save({k: v.contiguous() for k, v in weights.items()}, 'new.pth')",
            ));
        }
        expected *= side; // no overflow: the product is no larger than the file
    }
    Ok(())
}

/// The numbers of a tensor, out of its storage.
fn values(tensor: &Tensor, storage: &[u8]) -> Result<Vec<f32>, String> {
    let Tensor {
        storage: said,
        offset,
        dims,
        ..
    } = tensor;
    let size = said.number.bytes();
    if said.len.checked_mul(size) != Some(storage.len()) {
        let found = storage.len();
        return Err(format!(
            "a storage of {found} bytes that says it has {} numbers of {size}",
            said.len
        ));
    }
    let len = elements(dims).unwrap_or(0);
    let end = offset.checked_add(len).filter(|end| *end <= said.len);
    let end = end.ok_or_else(|| format!("elements from {offset} on of a storage of {}", said.len))?;
    said.number.read(&storage[offset * size..end * size])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_any_name_as_one_word() {
        for (word, expected) in [
            ("a/b-1.pth", "a/b-1.pth"),
            ("o'; rm -rf x; '.pth", "'o'\\''; rm -rf x; '\\''.pth'"),
            ("$(x)", "'$(x)'"),
            ("-x", "'./-x'"),
            ("a\nb", "FILE"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
