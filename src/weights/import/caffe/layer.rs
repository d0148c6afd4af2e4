//! One layer of a `NetParameter`, as its format writes it: `LayerParameter`, or `V1LayerParameter` of the older one.

use std::collections::BTreeMap;

use super::Checked;
use crate::weights::protobuf::{Field, Wire, fields};
use crate::weights::shown::shown;

/// Numbers of the fields in one of the two formats.
pub(super) struct Numbers {
    name: u64,
    kind: u64,
    bottom: u64,
    top: u64,
    blobs: u64,
    convolution: u64,
    inner_product: u64,
    lrn: u64,
    pooling: u64,
    relu: u64,
    /// A layer of the format before both, in a field of the older one.
    oldest: Option<u64>,
}

pub(super) const CURRENT: Numbers = Numbers {
    name: 1,
    kind: 2,
    bottom: 3,
    top: 4,
    blobs: 7,
    convolution: 106,
    inner_product: 117,
    lrn: 118,
    pooling: 121,
    relu: 123,
    oldest: None,
};

pub(super) const OLDER: Numbers = Numbers {
    name: 4,
    kind: 5,
    bottom: 2,
    top: 3,
    blobs: 6,
    convolution: 10,
    inner_product: 17,
    lrn: 18,
    pooling: 19,
    relu: 30,
    oldest: Some(1),
};

/// A layer, its arrays and parameters not yet read.
#[derive(Default)]
pub(super) struct Layer<'a> {
    number: usize,
    name: String,
    /// In the words of the current format.
    pub(super) kind: String,
    pub(super) bottoms: Vec<String>,
    pub(super) tops: Vec<String>,
    pub(super) blobs: Vec<&'a [u8]>,
    pub(super) convolution: Parameters<'a>,
    pub(super) inner_product: Parameters<'a>,
    pub(super) lrn: Parameters<'a>,
    pub(super) pooling: Parameters<'a>,
    pub(super) relu: Parameters<'a>,
}

impl<'a> Layer<'a> {
    /// `number` is its place in the file, from 1 on.
    pub(super) fn of(format: &Numbers, number: usize, message: &'a [u8]) -> Checked<Self> {
        let mut layer = Self {
            number,
            ..Self::default()
        };
        for field in fields(message) {
            let Field { number, value } = field?;
            match number {
                _ if number == format.name => layer.name = value.text()?,
                _ if number == format.kind => {
                    layer.kind = match value {
                        Wire::Varint(number) => older_kind(number),
                        _ => value.text()?,
                    }
                }
                _ if number == format.bottom => layer.bottoms.push(value.text()?),
                _ if number == format.top => layer.tops.push(value.text()?),
                _ if number == format.blobs => layer.blobs.push(value.bytes()?),
                _ if number == format.convolution => layer.convolution.0.push(value.bytes()?),
                _ if number == format.inner_product => layer.inner_product.0.push(value.bytes()?),
                _ if number == format.lrn => layer.lrn.0.push(value.bytes()?),
                _ if number == format.pooling => layer.pooling.0.push(value.bytes()?),
                _ if number == format.relu => layer.relu.0.push(value.bytes()?),
                _ if format.oldest == Some(number) => {
                    return Err(
                        "a layer of Caffe's first format: upgrade_net_proto_binary rewrites it".into(),
                    );
                }
                _ => {}
            }
        }
        Ok(layer)
    }

    /// The layer, as messages name it.
    pub(super) fn place(&self) -> String {
        let kind = shown(&self.kind);
        match self.name.as_str() {
            "" => format!("layer number {} ({kind})", self.number),
            name => format!("layer {} ({kind})", shown(name)),
        }
    }
}

/// Types of the older format.
fn older_kind(number: u64) -> String {
    let known = match number {
        1 => "Accuracy",
        4 => "Convolution",
        5 => "Data",
        6 => "Dropout",
        8 => "Flatten",
        9 => "HDF5Data",
        10 => "HDF5Output",
        12 => "ImageData",
        14 => "InnerProduct",
        15 => "LRN",
        17 => "Pooling",
        18 => "ReLU",
        20 => "Softmax",
        21 => "SoftmaxWithLoss",
        22 => "Split",
        24 => "WindowData",
        29 => "MemoryData",
        32 => "DummyData",
        36 => "Silence",
        other => return format!("type {other}"),
    };
    known.into()
}

/// What a layer of one type is told: one message, or the parts of one.
#[derive(Default)]
pub(super) struct Parameters<'a>(Vec<&'a [u8]>);

impl<'a> Parameters<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn fields(&self) -> impl Iterator<Item = Checked<Field<'a>>> {
        self.0.iter().flat_map(|part| fields(part))
    }

    /// Its whole numbers; those of `repeated` fields may be packed.
    pub(super) fn numbers(&self, repeated: &[u64]) -> Checked<Whole> {
        let mut numbers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for field in self.fields() {
            let Field { number, value } = field?;
            if matches!(value, Wire::Varint(_)) || repeated.contains(&number) {
                value.numbers(numbers.entry(number).or_default())?;
            }
        }
        Ok(Whole(numbers))
    }

    pub(super) fn float(&self, wanted: u64, default: f32) -> Checked<f32> {
        let mut found = default;
        for field in self.fields() {
            let Field { number, value } = field?;
            if number == wanted {
                found = value.float()?;
            }
        }
        Ok(found)
    }
}

/// Whole numbers, by the number of their field.
pub(super) struct Whole(BTreeMap<u64, Vec<u64>>);

impl Whole {
    fn all(&self, number: u64) -> &[u64] {
        self.0.get(&number).map_or(&[], Vec::as_slice)
    }

    /// The last is what counts.
    pub(super) fn one(&self, number: u64, default: u64) -> u64 {
        self.all(number).last().copied().unwrap_or(default)
    }

    /// Height and width: one number for both, one for each, or each in a field of its own.
    pub(super) fn edges(&self, both: u64, each: [u64; 2], default: u64) -> Checked<[u64; 2]> {
        if each.iter().any(|number| !self.all(*number).is_empty()) {
            return Ok(each.map(|number| self.one(number, default)));
        }
        match *self.all(both) {
            [] => Ok([default; 2]),
            [edge] => Ok([edge; 2]),
            [height, width] => Ok([height, width]),
            ref more => Err(format!("{} numbers for two edges", more.len())),
        }
    }
}
