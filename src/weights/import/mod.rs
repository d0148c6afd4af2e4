//! Weights of other programs: named arrays out of their files, and which network they are.
//!
//! Nothing in a file is trusted: sizes and offsets are checked before anything of that size is read or allocated, names are
//! never paths, and nothing is ever executed.

mod caffe;
mod ends;
mod graph;
mod identify;
mod onnx;
mod pickle;
mod recognise;
mod safetensors;
mod sequence;
mod steps;
mod torch;
mod zip;

pub(super) use identify::{difference, identify};
pub use recognise::Format;
pub(super) use recognise::expect_safetensors;

use std::fmt::Display;
use std::path::Path;

use super::about::About;
use crate::data::map::Map;
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Layer, Spec};

/// What a file is to hold, and how much of it is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection {
    /// Which configuration it must be of; any.
    pub(super) config: Option<Config>,
    /// Whole networks; or their convolutions alone, whatever stands behind them.
    pub(super) extent: Extent,
}

/// Arrays under torchvision's names.
#[derive(Debug)]
pub(super) struct Imported {
    /// In the order of the file.
    pub(super) arrays: Vec<NamedArray>,
    /// Who wrote them.
    pub(super) origin: Origin,
}

/// Where weights come from.
#[derive(Debug)]
pub(super) enum Origin {
    /// This program wrote the file, with what travels. Its arrays are whole, whatever was wanted of them.
    Ours(Box<About>),
    /// Another program, with images preprocessed by its convention.
    Theirs(Preprocess),
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

/// Reads the arrays of a file.
pub(super) fn import(path: &Path, format: Option<Format>, wanted: Selection) -> Result<Imported> {
    if path.is_dir() {
        return Err(Error::invalid_hint(
            path.display(),
            "a file",
            "a folder",
            "a run's folder is read without --from",
        ));
    }
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
    wanted: Selection,
) -> Result<Imported> {
    let format = Format::of(path, bytes, format)?;
    let mut imported = match format {
        Format::Torch => torch::read(path, bytes)?,
        Format::Safetensors => safetensors::read(path, bytes)?,
        Format::Onnx => onnx::read(path, bytes, wanted)?,
        Format::Caffe => caffe::read(path, bytes, wanted)?,
    };
    if wanted.extent == Extent::Trunk && matches!(imported.origin, Origin::Theirs(_)) {
        imported.arrays.retain(|array| array.name.starts_with(TRUNK));
    }
    Ok(imported)
}

/// How torchvision's names of a trunk's arrays begin.
const TRUNK: &str = "features.";

/// A network whose convolutions are those of a VGG network, and whose head is another one.
fn other_head(place: impl Display, config: Config, found: impl Display) -> Error {
    Error::invalid_hint(
        place,
        "a VGG network with its three fully connected layers",
        format_args!("the convolutions of net {config}, and behind them {found}"),
        "convert --trunk takes the convolutions alone",
    )
}

/// The error where a file is of another configuration than is wanted; names the first layer that differs.
pub(super) fn other_config(path: &Path, wanted: Config, found: &Spec) -> Result<Error> {
    let expected = Spec {
        config: wanted,
        ..found.clone()
    };
    let [expected, there] = [expected.build()?, found.build()?].map(|network| network.layers);
    let differs = expected
        .iter()
        .zip(&there)
        .find(|(a, b)| a.name != b.name || a.op != b.op);
    let shown = |layer: &Layer| format!("{} ({})", layer.name, layer.kind());
    let (layer, other) = differs.map_or_else(Default::default, |(a, b)| (shown(a), shown(b)));
    Ok(Error::invalid_hint(
        path.display(),
        format_args!("weights of configuration {wanted}, with layer {layer}"),
        format_args!(
            "weights of configuration {}, with {other} in its place",
            found.config
        ),
        format_args!("they fit --config {}", found.config),
    ))
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

    /// Little-endian numbers as f32, rounded to nearest. Errors where one is beyond f32.
    fn read(self, bytes: &[u8]) -> std::result::Result<Vec<f32>, String> {
        let values = match self {
            Self::F64 => each(bytes, |x| f64::from_le_bytes(x) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |x| half::f16::from_le_bytes(x).to_f32()),
            Self::Bf16 => each(bytes, |x| half::bf16::from_le_bytes(x).to_f32()),
            Self::I64 => each(bytes, |x| i64::from_le_bytes(x) as f32),
        };
        if self == Self::F64 {
            let doubles = bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
            let mut pairs = doubles.zip(&values);
            let is_beyond = |(double, value): &(f64, &f32)| double.is_finite() && !value.is_finite();
            if let Some((double, _)) = pairs.find(is_beyond) {
                return Err(format!("{double:e}, a number beyond those of f32"));
            }
        }
        Ok(values)
    }
}

fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Sides of an array at most; a filter has four.
const MOST_SIDES: usize = 8;

/// Product of a shape's sides, if it is a number above 0: beside a side of 0, others may say what they like.
fn elements(dims: &[usize]) -> Option<usize> {
    dims.iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side))
        .filter(|&product| product > 0)
}
