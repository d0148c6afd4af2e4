//! Weights of other programs: named arrays out of their files, and which network they are.
//!
//! Nothing in a file is trusted: sizes and offsets are checked before anything of that size is read or allocated, names are
//! never paths, and nothing is ever executed.

mod caffe;
mod graph;
mod identify;
mod onnx;
mod pickle;
mod safetensors;
mod sequence;
mod torch;
mod zip;

pub(super) use identify::{difference, identify};

use std::path::Path;

use crate::data::map::Map;
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Config, Extent};

/// What a file is to hold, and how much of it is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Which configuration it must be of; any.
    pub(super) config: Option<Config>,
    /// Whole networks; or their convolutions alone, whatever stands behind them.
    pub(super) extent: Extent,
}

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

/// Arrays under torchvision's names, and how their images are preprocessed.
#[derive(Debug)]
pub(super) struct Imported {
    /// In the order of the file.
    pub(super) arrays: Vec<NamedArray>,
    /// By the convention of where they come from.
    pub(super) preprocess: Preprocess,
}

impl From<(Vec<NamedArray>, Preprocess)> for Imported {
    fn from((arrays, preprocess): (Vec<NamedArray>, Preprocess)) -> Self {
        Self { arrays, preprocess }
    }
}

/// One array, converted to f32.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedArray {
    /// torchvision's.
    pub(super) name: String,
    /// Shape in torch's layout.
    pub(super) dims: Vec<usize>,
    /// Row by row.
    pub(super) values: Vec<f32>,
}

/// Bytes of a file that are looked at to tell its format.
const MAGIC: usize = 16;

impl Format {
    /// Tells the format from the first bytes; ONNX and Caffe's files have no mark of their own and are told by their names.
    /// Errors say what is not read and what to do with it.
    pub fn of(path: &Path, bytes: &[u8]) -> Result<Self> {
        match bytes {
            [b'P', b'K', 3, 4, ..] => Ok(Self::Torch),
            [0x80, 2, 0x8a, ..] => Err(torch::old_format(path)),
            [_, _, _, _, _, _, _, _, b'{', ..] => Ok(Self::Safetensors),
            _ if path.extension().is_some_and(|name| name == "onnx") => Ok(Self::Onnx),
            _ if path.extension().is_some_and(|name| name == "caffemodel") => Ok(Self::Caffe),
            _ => Err(Error::invalid_hint(
                path.display(),
                "weights: a .pth of PyTorch, safetensors, .onnx or .caffemodel",
                format_args!("bytes {:02x?}", &bytes[..bytes.len().min(MAGIC)]),
                "say which with --from if you know better",
            )),
        }
    }
}

/// Reads the arrays of a file.
pub(super) fn import(path: &Path, format: Option<Format>, wanted: Wanted) -> Result<Imported> {
    let bytes = Map::open(path)?;
    let imported = import_from(path, &bytes, format, wanted);
    bytes.confirm(path)?;
    imported
}

/// [`import`], where the bytes of the file are at hand; `path` is for the errors.
pub(super) fn import_from(
    path: &Path,
    bytes: &[u8],
    format: Option<Format>,
    wanted: Wanted,
) -> Result<Imported> {
    let format = match format {
        Some(format) => format,
        None => Format::of(path, bytes)?,
    };
    let mut imported = match format {
        Format::Torch => torch::read(path, bytes)?,
        Format::Safetensors => safetensors::read(path, bytes)?,
        Format::Onnx => onnx::read(path, bytes, wanted)?.into(),
        Format::Caffe => caffe::read(path, bytes, wanted)?.into(),
    };
    if wanted.extent == Extent::Trunk {
        imported.arrays.retain(|array| array.name.starts_with(TRUNK));
    }
    Ok(imported)
}

/// How torchvision's names of a trunk's arrays begin.
const TRUNK: &str = "features.";

/// A network whose convolutions are those of a VGG network, and whose head is another one.
fn other_head(path: &Path, config: Config, found: impl std::fmt::Display) -> Error {
    Error::invalid_hint(
        path.display(),
        "a VGG network with its three fully connected layers",
        format_args!("the convolutions of net {config}, and behind them {found}"),
        "convert --trunk takes the convolutions alone",
    )
}

/// As torchvision's models want their images.
fn torchvision() -> Preprocess {
    Preprocess::standardize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
}

/// Number types of arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    F64,
    F32,
    F16,
    Bf16,
    /// Counters, which no network needs.
    I64,
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Little-endian numbers as f32, rounded to nearest.
    fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => each(bytes, |x| f64::from_le_bytes(x) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |x| half::f16::from_le_bytes(x).to_f32()),
            Self::Bf16 => each(bytes, |x| half::bf16::from_le_bytes(x).to_f32()),
            Self::I64 => each(bytes, |x| i64::from_le_bytes(x) as f32),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Product of a shape's sides, if it is a number above 0: beside a side of 0, others may say what they like.
fn elements(dims: &[usize]) -> Option<usize> {
    dims.iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side))
        .filter(|&product| product > 0)
}

fn damaged(path: &Path, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::invalid_hint(
        path.display(),
        expected,
        found,
        "it is damaged, or was not written by who it says; download it again",
    )
}
