//! Caffe's `.caffemodel`: a `NetParameter`, with layers of the current format (100) or of the older one (2).
//!
//! Caffe's networks see blue first: the first layer's filters are turned to red first, and the public models' mean with
//! them. Its local response normalisation divides alpha by the size of the window.

use std::path::Path;

use super::sequence::{Kind, Sequence, WeightLayer};
use super::{NamedArray, Wanted, damaged, elements};
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::lrn;
use crate::weights::protobuf::{Field, fields};

const WHOLE: &str = "a whole caffemodel";

/// Mean RGB of the public models (Simonyan and Zisserman's).
const MEAN_RGB: [f64; 3] = [123.68, 116.779, 103.939];

/// Reads the layers with weights in their order.
pub(super) fn read(path: &Path, bytes: &[u8], wanted: Wanted) -> Result<(Vec<NamedArray>, Preprocess)> {
    let mut sequence = sequence(bytes).map_err(|why| damaged(path, WHOLE, why))?;
    if let Some(first) = sequence.layers.first_mut() {
        red_first(first);
    }
    Ok((sequence.named(path, wanted)?, Preprocess::subtract_mean(MEAN_RGB)))
}

type Checked<T> = std::result::Result<T, String>;

/// Numbers of the fields in one of the two formats of a layer.
struct Format {
    name: u64,
    kind: u64,
    blobs: u64,
    lrn: u64,
}

const CURRENT: Format = Format {
    name: 1,
    kind: 2,
    blobs: 7,
    lrn: 118,
};
const OLDER: Format = Format {
    name: 4,
    kind: 5,
    blobs: 6,
    lrn: 18,
};

fn sequence(bytes: &[u8]) -> Checked<Sequence> {
    let mut sequence = Sequence::default();
    for field in fields(bytes) {
        let Field { number, value } = field?;
        match number {
            100 => add_layer(&mut sequence, &CURRENT, value.bytes()?)?,
            2 => add_layer(&mut sequence, &OLDER, value.bytes()?)?,
            _ => {}
        }
    }
    if sequence.layers.is_empty() {
        return Err("no layer with weights".into());
    }
    Ok(sequence)
}

fn add_layer(sequence: &mut Sequence, format: &Format, message: &[u8]) -> Checked<()> {
    let (mut name, mut kind, mut arrays, mut normalises) = (String::new(), String::new(), Vec::new(), None);
    for field in fields(message) {
        let Field { number, value } = field?;
        if number == format.name {
            name = value.text()?;
        } else if number == format.kind {
            kind = match format.kind {
                2 => value.text()?,
                _ => older_kind(value.number()?).into(),
            };
        } else if number == format.blobs {
            arrays.push(blob(value.bytes()?)?);
        } else if number == format.lrn {
            normalises = Some(value.bytes()?);
        }
    }
    let kind = match kind.as_str() {
        "Convolution" => Kind::Conv,
        "InnerProduct" => Kind::Linear,
        "LRN" => {
            sequence.lrn = true;
            return check_lrn(normalises.unwrap_or_default());
        }
        _ if arrays.is_empty() => return Ok(()),
        other => return Err(format!("layer {name} of type {other:?} with weights")),
    };
    if arrays.is_empty() {
        return Ok(()); // a network without weights, or a layer for the training phase only
    }
    let (dims, values) = &mut arrays[0];
    // The older format writes (1, 1, out, in).
    let sides = if kind == Kind::Linear { 2 } else { 4 };
    while dims.len() > sides && dims[0] == 1 {
        dims.remove(0);
    }
    if dims.len() != sides {
        return Err(format!("layer {name}: weights of shape {dims:?}"));
    }
    let outputs = dims[0];
    debug_assert_eq!(elements(dims), Some(values.len()));
    match arrays.len() {
        1 => arrays.push((vec![outputs], vec![0.0; outputs])),
        _ => arrays.truncate(2),
    }
    arrays[1].0 = vec![arrays[1].1.len()];
    sequence.layers.push(WeightLayer { kind, arrays });
    Ok(())
}

/// Types of the older format that matter.
fn older_kind(number: u64) -> &'static str {
    match number {
        4 => "Convolution",
        14 => "InnerProduct",
        15 => "LRN",
        _ => "",
    }
}

/// A `BlobProto`: shape and numbers.
fn blob(message: &[u8]) -> Checked<(Vec<usize>, Vec<f32>)> {
    let (mut older, mut shape, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for field in fields(message) {
        let Field { number, value } = field?;
        match number {
            1..=4 => older.push(value.number()?),
            5 => value.floats(&mut values)?,
            7 => {
                for side in fields(value.bytes()?) {
                    side?.value.numbers(&mut shape)?;
                }
            }
            8 | 9 => return Err("weights in double precision".into()),
            _ => {}
        }
    }
    let sides = if shape.is_empty() { older } else { shape };
    let dims: Option<Vec<usize>> = sides.iter().map(|&side| usize::try_from(side).ok()).collect();
    let dims = dims.filter(|dims| elements(dims) == Some(values.len()));
    let dims = dims.ok_or_else(|| format!("{} numbers of shape {sides:?}", values.len()))?;
    Ok((dims, values))
}

/// The paper's constants: k = 2, n = 5, alpha = 1e-4 (5e-4 divided by n), beta = 0.75.
fn check_lrn(message: &[u8]) -> Checked<()> {
    let (mut size, mut alpha, mut beta, mut k) = (5, 1.0, 0.75, 1.0);
    for field in fields(message) {
        let Field { number, value } = field?;
        match number {
            1 => size = value.number()?,
            2 => alpha = value.float()?,
            3 => beta = value.float()?,
            5 => k = value.float()?,
            _ => {}
        }
    }
    let is_alpha = (alpha / lrn::N as f32 - lrn::ALPHA).abs() < 1e-3 * lrn::ALPHA;
    if size == lrn::N as u64 && is_alpha && beta == lrn::BETA && k == lrn::K {
        return Ok(());
    }
    Err(format!(
        "normalisation with size {size}, alpha {alpha}, beta {beta}, k {k}, where net A-LRN has 5, 5e-4, 0.75, 2"
    ))
}

/// Filters over blue, green, red become filters over red, green, blue.
fn red_first(layer: &mut WeightLayer) {
    let (dims, values) = &mut layer.arrays[0];
    if let [_, 3, rows, columns] = dims[..] {
        for filter in values.chunks_exact_mut(3 * rows * columns) {
            let (blue, rest) = filter.split_at_mut(rows * columns);
            blue.swap_with_slice(&mut rest[rows * columns..]);
        }
    }
}
