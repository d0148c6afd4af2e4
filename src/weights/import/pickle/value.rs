//! What a pickle's machine holds.

use std::fmt;

use crate::weights::import::Number;
use crate::weights::shown::shown;

/// Index of a value.
pub(super) type At = usize;

/// Values refer to each other by index.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<At>),
    List(Vec<At>),
    Dict(Vec<(At, At)>),
    Known(Known),
    Storage(Storage),
    Tensor(Tensor),
}

/// For messages: what it is, not all that it holds.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool => f.write_str("a truth value"),
            Self::Int(number) => write!(f, "the number {number}"),
            Self::Float => f.write_str("a float"),
            Self::Text(text) => write!(f, "the text {}", shown(text)),
            Self::Tuple(items) => write!(f, "a tuple of {}", items.len()),
            Self::List(items) => write!(f, "a list of {}", items.len()),
            Self::Dict(entries) => write!(f, "a dictionary of {}", entries.len()),
            Self::Known(known) => write!(f, "the name {known:?}"),
            Self::Storage(_) => f.write_str("a storage"),
            Self::Tensor(_) => f.write_str("a tensor"),
        }
    }
}

/// Names that a pickle may mention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageOf(Number),
}

impl Known {
    pub(super) fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "DoubleStorage") => Self::StorageOf(Number::F64),
            ("torch", "FloatStorage") => Self::StorageOf(Number::F32),
            ("torch", "HalfStorage") => Self::StorageOf(Number::F16),
            ("torch", "BFloat16Storage") => Self::StorageOf(Number::Bf16),
            ("torch", "LongStorage") => Self::StorageOf(Number::I64),
            _ => return None,
        })
    }
}

/// Where a tensor's numbers are.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::weights::import) struct Storage {
    /// Type of its numbers.
    pub(in crate::weights::import) number: Number,
    /// The member `data/<key>` of the archive.
    pub(in crate::weights::import) key: String,
    /// How many numbers it says it has.
    pub(in crate::weights::import) len: usize,
}

/// A tensor, described.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::weights::import) struct Tensor {
    pub(in crate::weights::import) storage: Storage,
    /// The first of its numbers in the storage.
    pub(in crate::weights::import) offset: usize,
    pub(in crate::weights::import) dims: Vec<usize>,
    pub(in crate::weights::import) strides: Vec<usize>,
}
