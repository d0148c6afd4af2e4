//! The attribute store of the graph API: descriptors of any kind, with typed attributes, finalized once.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cudnn::sys::cudnnBackendAttributeType_t as Type;

use super::engine::Engine;
use super::graph::Program;

/// The number of a descriptor; what the program holds as its handle.
pub(super) type Id = usize;

/// One descriptor.
#[derive(Debug, Clone, Default)]
pub(super) struct Descriptor {
    pub(super) kind: u32,
    pub(super) finalized: bool,
    /// The elements of every attribute, as bytes.
    pub(super) attributes: HashMap<u32, Vec<u8>>,
    pub(super) payload: Payload,
}

/// What cuDNN, not the program, puts into a descriptor.
#[derive(Debug, Clone, Default)]
pub(super) enum Payload {
    #[default]
    Nothing,
    /// A finalized graph.
    Graph(Program),
    /// The heuristics' answers for a graph.
    Offered(Program, &'static [Engine]),
    /// One of them, or the plan made of it.
    Engine(Program, Engine),
    /// How one knob of an engine is set: its number and its value.
    Knob([i64; 2]),
}

/// Bytes of one element of an attribute type; `None` for types that this simulator does not know.
pub(super) fn size_of_type(ty: u32) -> Option<usize> {
    const POINTERS: [Type; 3] = [
        Type::CUDNN_TYPE_HANDLE,
        Type::CUDNN_TYPE_VOID_PTR,
        Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
    ];
    const WORDS: [Type; 7] = [
        Type::CUDNN_TYPE_DATA_TYPE,
        Type::CUDNN_TYPE_FLOAT,
        Type::CUDNN_TYPE_CONVOLUTION_MODE,
        Type::CUDNN_TYPE_HEUR_MODE,
        Type::CUDNN_TYPE_NUMERICAL_NOTE,
        Type::CUDNN_TYPE_POINTWISE_MODE,
        Type::CUDNN_TYPE_INT32,
    ];
    let is = |set: &[Type]| set.iter().any(|t| *t as u32 == ty);
    if is(&POINTERS) {
        Some(size_of::<*mut c_void>())
    } else if is(&WORDS) {
        Some(4)
    } else if is(&[Type::CUDNN_TYPE_INT64, Type::CUDNN_TYPE_DOUBLE]) {
        Some(8)
    } else if is(&[Type::CUDNN_TYPE_BOOLEAN, Type::CUDNN_TYPE_CHAR]) {
        Some(1)
    } else {
        None
    }
}

impl Descriptor {
    fn words<const N: usize, T>(&self, name: u32, of: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
        let attribute = self.attributes.get(&name)?;
        Some(
            attribute
                .as_chunks::<N>()
                .0
                .iter()
                .map(|bytes| of(*bytes))
                .collect(),
        )
    }

    pub(super) fn integers(&self, name: u32) -> Option<Vec<i64>> {
        self.words(name, i64::from_ne_bytes)
    }

    /// An enumeration's value.
    pub(super) fn word(&self, name: u32) -> Option<u32> {
        self.words(name, u32::from_ne_bytes)?.first().copied()
    }

    pub(super) fn float(&self, name: u32) -> Option<f32> {
        self.words(name, f32::from_ne_bytes)?.first().copied()
    }

    pub(super) fn flag(&self, name: u32) -> Option<bool> {
        self.attributes.get(&name)?.first().map(|byte| *byte != 0)
    }

    /// Pointers, handles and descriptors alike.
    pub(super) fn addresses(&self, name: u32) -> Option<Vec<usize>> {
        self.words(name, usize::from_ne_bytes)
    }
}
