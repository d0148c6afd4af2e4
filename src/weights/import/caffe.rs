//! Caffe's `.caffemodel`: a `NetParameter`, with layers of the current format (100) or of the older one (2).
//!
//! Caffe's networks see blue first: the first layer's filters are turned to red first, and the public models' mean with
//! them. Its pooling counts odd last rows and columns as whole windows, where this program drops them: at the sizes that
//! VGG networks are trained at there are none.
//!
//! A file without poolings was stripped of layers, and is taken by the shapes of its weights; one that has them must compute
//! what a VGG network computes.

mod layer;

use std::path::Path;

use layer::{CURRENT, Layer, Numbers, OLDER, Parameters};

use super::sequence::{Sequence, WeightLayer};
use super::steps::{Operation, Weighted, check_lrn};
use super::{Imported, MOST_SIDES, Origin, Selection, elements};
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::{Extent, POOLS};
use crate::weights::damaged;
use crate::weights::protobuf::{Field, fields};
use crate::weights::shown::{shown, sides};

const WHOLE: &str = "a whole caffemodel of VGG's layers";

/// Mean RGB of the public models (Simonyan and Zisserman's).
const MEAN_RGB: [f64; 3] = [123.68, 116.779, 103.939];

/// Reads the layers in their order.
pub(super) fn read(path: &Path, bytes: &[u8], wanted: Selection) -> Result<Imported> {
    let mut chain = Chain::default();
    if let Err(why) = chain.follow(bytes, wanted.extent) {
        return Err(chain.sequence.unknown(path, WHOLE, why));
    }
    let mut sequence = chain.sequence;
    sequence.is_bare = sequence.is_stripped();
    match sequence.layers.first_mut() {
        Some(first) => red_first(first),
        None => return Err(damaged(path, WHOLE, "no layer with weights")),
    }
    Ok(Imported {
        arrays: sequence.named(path, wanted, None)?,
        origin: Origin::Theirs(Preprocess::subtract_mean(MEAN_RGB)),
    })
}

type Checked<T> = std::result::Result<T, String>;

/// Layers one behind the other.
#[derive(Default)]
struct Chain {
    sequence: Sequence,
    /// The names under which the last layer's output can be read; none before the first that says so.
    values: Vec<String>,
}

impl Chain {
    /// From the first layer to the last, or to the last pooling of a trunk.
    fn follow(&mut self, bytes: &[u8], extent: Extent) -> Checked<()> {
        let mut layers = 0;
        for field in fields(bytes) {
            let Field { number, value } = field?;
            let format: &Numbers = match number {
                100 => &CURRENT,
                2 => &OLDER,
                _ => continue,
            };
            layers += 1;
            let layer = Layer::of(format, layers, value.bytes()?)?;
            let place = layer.place();
            self.take(&layer).map_err(|why| format!("{place}: {why}"))?;
            if extent == Extent::Trunk && self.sequence.count(&Operation::MaxPool) == POOLS {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, layer: &Layer<'_>) -> Checked<()> {
        let operation = match layer.kind.as_str() {
            "Data" | "ImageData" | "Input" | "DummyData" | "HDF5Data" | "MemoryData" | "WindowData" => {
                self.values.extend(layer.tops.iter().cloned());
                return Ok(());
            }
            "Split" => {
                let bottoms = &layer.bottoms;
                if bottoms.iter().any(|bottom| self.values.contains(bottom)) {
                    self.values.extend(layer.tops.iter().cloned());
                }
                return Ok(());
            }
            "Accuracy" | "Silence" | "HDF5Output" => return Ok(()),
            "Convolution" => Operation::Weights(Weighted::Conv),
            "InnerProduct" => Operation::Weights(Weighted::Linear),
            "LRN" => normalisation(&layer.lrn)?,
            "Pooling" => pooling(&layer.pooling)?,
            "ReLU" => rectifier(&layer.relu)?,
            "Dropout" => Operation::Dropout,
            "Flatten" => Operation::Flatten,
            "Softmax" | "SoftmaxWithLoss" => Operation::Softmax,
            other => Operation::Other(other.into()),
        };
        self.connect(layer)?;
        match operation {
            Operation::Weights(kind) => {
                let weights = weights(kind, layer)?;
                self.sequence.push(weights, layer.place());
                Ok(())
            }
            _ if !layer.blobs.is_empty() => Err("weights, which no such layer of a VGG network has".into()),
            operation => {
                self.sequence.step(operation, layer.place());
                Ok(())
            }
        }
    }

    /// Each layer reads what the one before gives, where the file says what they read.
    fn connect(&mut self, layer: &Layer<'_>) -> Checked<()> {
        if let Some(bottom) = layer.bottoms.first()
            && !self.values.is_empty()
            && !self.values.contains(bottom)
        {
            return Err(format!(
                "reads {}, which is not what the layer before it gives",
                shown(bottom)
            ));
        }
        self.values = layer.tops.first().cloned().into_iter().collect();
        Ok(())
    }
}

/// Weight and bias of a layer that computes what this program does with them.
fn weights(kind: Weighted, layer: &Layer<'_>) -> Checked<WeightLayer> {
    let mut arrays: Vec<_> = layer
        .blobs
        .iter()
        .map(|blob| self::blob(blob))
        .collect::<Checked<_>>()?;
    let (dims, _) = arrays.first_mut().ok_or("no weights")?;
    // The older format writes (1, 1, out, in).
    let wanted = if kind == Weighted::Linear { 2 } else { 4 };
    let more = dims.len().saturating_sub(wanted);
    let extra = dims[..more].iter().take_while(|side| **side == 1).count();
    dims.drain(..extra);
    if dims.len() != wanted {
        return Err(format!("weights of shape {}", sides(dims)));
    }
    let outputs = dims[0];
    match kind {
        Weighted::Conv => convolution(&layer.convolution, [dims[2], dims[3]])?,
        Weighted::Linear => inner_product(&layer.inner_product)?,
        Weighted::BatchNorm => return Err("batch norm, which Caffe has not in one layer".into()),
    }
    match arrays.len() {
        1 => arrays.push((vec![outputs], vec![0.0; outputs])),
        _ => arrays.truncate(2),
    }
    arrays[1].0 = vec![arrays[1].1.len()];
    Ok(WeightLayer { kind, arrays })
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
    let said = if shape.is_empty() { older } else { shape };
    let dims: Option<Vec<usize>> = said.iter().map(|&side| usize::try_from(side).ok()).collect();
    let dims = dims.filter(|dims| dims.len() <= MOST_SIDES && elements(dims) == Some(values.len()));
    let dims = dims.ok_or_else(|| format!("{} numbers of shape {}", values.len(), sides(&said)))?;
    Ok((dims, values))
}

/// Refuses another number than this program's; what is not said is `default`.
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: &T) -> Checked<()> {
    if found == *expected {
        return Ok(());
    }
    Err(format!("{what} {found:?}, not {expected:?}"))
}

/// A `ConvolutionParameter`, if there is one: a square kernel of stride 1 that keeps the size.
fn convolution(parameters: &Parameters<'_>, kernel: [usize; 2]) -> Checked<()> {
    let kernel = kernel.map(|side| side as u64);
    if kernel[0] != kernel[1] || kernel[0].is_multiple_of(2) {
        return Err(format!("a filter of {}x{}", kernel[0], kernel[1]));
    }
    if parameters.is_empty() {
        return Ok(());
    }
    let numbers = parameters.numbers(&[3, 4, 6, 18])?;
    expect("kernel", numbers.edges(4, [11, 12], kernel[0])?, &kernel)?;
    expect("pad", numbers.edges(3, [9, 10], 0)?, &kernel.map(|side| side / 2))?;
    expect("stride", numbers.edges(6, [13, 14], 1)?, &[1; 2])?;
    expect("dilation", numbers.edges(18, [0, 0], 1)?, &[1; 2])?;
    expect("group", numbers.one(5, 1), &1)?;
    expect("axis", numbers.one(16, 1), &1)
}

/// An `InnerProductParameter`.
fn inner_product(parameters: &Parameters<'_>) -> Checked<()> {
    let numbers = parameters.numbers(&[])?;
    expect("axis", numbers.one(5, 1), &1)?;
    expect("transpose", numbers.one(6, 0), &0)
}

/// A `PoolingParameter`, if there is one: the maximum over 2x2 pixels, stride 2.
fn pooling(parameters: &Parameters<'_>) -> Checked<Operation> {
    let numbers = parameters.numbers(&[])?;
    if parameters.is_empty() {
        return Ok(Operation::MaxPool);
    }
    if numbers.one(1, 0) != 0 {
        return Err("averages, where VGG takes the maximum".into());
    }
    expect("kernel", numbers.edges(2, [5, 6], 0)?, &[2; 2])?;
    expect("stride", numbers.edges(3, [7, 8], 1)?, &[2; 2])?;
    expect("pad", numbers.edges(4, [9, 10], 0)?, &[0; 2])?;
    expect("global_pooling", numbers.one(12, 0), &0)?;
    Ok(Operation::MaxPool)
}

/// A `ReLUParameter`.
fn rectifier(parameters: &Parameters<'_>) -> Checked<Operation> {
    expect("negative_slope", parameters.float(1, 0.0)?, &0.0)?;
    Ok(Operation::Relu)
}

/// An `LRNParameter`.
fn normalisation(parameters: &Parameters<'_>) -> Checked<Operation> {
    let numbers = parameters.numbers(&[])?;
    if numbers.one(4, 0) != 0 {
        return Err("normalisation within a channel, where net A-LRN has it across channels".into());
    }
    let float = |number, default| parameters.float(number, default);
    check_lrn(numbers.one(1, 5), float(2, 1.0)?, float(3, 0.75)?, float(5, 1.0)?)?;
    Ok(Operation::Lrn)
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
