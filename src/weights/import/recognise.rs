//! What a file is, by its first bytes; and what is said of files that are no weights at all.

use std::path::Path;

use super::torch;
use crate::error::{Error, Result};

/// File formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// PyTorch's `.pth` since version 1.6: a zip archive with a pickle.
    Torch,
    /// Safetensors with torchvision's names.
    Safetensors,
    /// ONNX graphs of VGG's shape.
    Onnx,
    /// Caffe's `.caffemodel`.
    Caffe,
}

/// Bytes of a file that a message shows.
const MAGIC: usize = 16;

/// Bytes in which a web page says that it is one.
const PAGE: usize = 64;

const WEIGHTS: &str = "weights: a .pth of PyTorch, safetensors, .onnx or .caffemodel";

impl Format {
    /// What was `said`; else told from the first bytes. ONNX and Caffe's files have no mark of their own and are told by
    /// their names. Errors say what is not read, whatever was said, and what to do with it.
    pub(super) fn of(path: &Path, bytes: &[u8], said: Option<Self>) -> Result<Self> {
        if let Some(error) = no_weights(path, bytes) {
            return Err(error);
        }
        let named = |name: &str| path.extension().is_some_and(|extension| extension == name);
        match (said, bytes) {
            (Some(said), _) => Ok(said),
            (None, [b'P', b'K', 3, 4, ..]) => Ok(Self::Torch),
            (None, [_, _, _, _, _, _, _, _, b'{', ..]) => Ok(Self::Safetensors),
            (None, _) if named("onnx") => Ok(Self::Onnx),
            (None, _) if named("caffemodel") => Ok(Self::Caffe),
            (None, _) => Err(Error::invalid_hint(
                path.display(),
                WEIGHTS,
                format_args!("bytes {:02x?}", &bytes[..bytes.len().min(MAGIC)]),
                "say which with --from if you know better",
            )),
        }
    }
}

/// Refuses a file of another format where safetensors are read, and says what makes them of it.
pub(in crate::weights) fn expect_safetensors(path: &Path, bytes: &[u8]) -> Result<()> {
    let found = match Format::of(path, bytes, None) {
        Ok(Format::Torch) => "a zip archive, as PyTorch's",
        Ok(Format::Onnx) => "an ONNX file",
        Ok(Format::Caffe) => "a caffemodel",
        Ok(Format::Safetensors) | Err(_) => return Ok(()), // or it is damaged, which is said where it is read
    };
    let hint = "verydeep convert IN OUT.safetensors makes weights of it";
    Err(Error::invalid_hint(
        path.display(),
        "a safetensors file",
        found,
        hint,
    ))
}

/// What lies where weights should be, and is none.
fn no_weights(path: &Path, bytes: &[u8]) -> Option<Error> {
    let error = |found: &str, hint: &str| Some(Error::invalid_hint(path.display(), WEIGHTS, found, hint));
    if bytes.is_empty() {
        return error("an empty file", "download or copy it again");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return error(
            "a pointer of git LFS in place of the file",
            "git lfs pull fetches the file",
        );
    }
    if is_page(bytes) {
        return error(
            "a web page",
            "the address gave a page in place of the file: open it in a browser to see why",
        );
    }
    torch::bare_pickle(path, bytes)
}

fn is_page(bytes: &[u8]) -> bool {
    let start = &bytes.trim_ascii_start();
    let start = start[..start.len().min(PAGE)].to_ascii_lowercase();
    [&b"<!doctype"[..], b"<html", b"<?xml", b"<head"]
        .iter()
        .any(|mark| start.starts_with(mark))
}
