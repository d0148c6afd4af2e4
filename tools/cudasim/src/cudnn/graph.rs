//! From descriptors to a program: what a finalized operation graph computes.

use std::collections::HashMap;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind, cudnnConvolutionMode_t,
    cudnnDataType_t, cudnnPointwiseMode_t as Pointwise,
};

use super::conv::{self, Geometry, View, indices};
use super::descriptor::{Descriptor, Id};
use crate::library::Float;

/// A tensor descriptor, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) uid: i64,
    pub(super) float: Float,
    /// N, C, H, W of a value; K, C, R, S of a filter.
    pub(super) dims: [i64; 4],
    pub(super) strides: [i64; 4],
    pub(super) alignment: i64,
    pub(super) is_virtual: bool,
}

impl Tensor {
    /// Bytes from the first element to the end of the last.
    pub(super) fn span(&self) -> usize {
        let last: i64 = self
            .dims
            .iter()
            .zip(self.strides)
            .map(|(dim, stride)| (dim - 1) * stride)
            .sum();
        (last as usize + 1) * self.float.bytes()
    }
}

/// One node of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Forward {
        geometry: Geometry,
        x: Tensor,
        w: Tensor,
        y: Tensor,
    },
    DataGradient {
        geometry: Geometry,
        dx: Tensor,
        w: Tensor,
        dy: Tensor,
    },
    FilterGradient {
        geometry: Geometry,
        x: Tensor,
        dw: Tensor,
        dy: Tensor,
    },
    Add {
        x: Tensor,
        b: Tensor,
        y: Tensor,
    },
    Relu {
        x: Tensor,
        y: Tensor,
    },
}

/// The operations of a graph, in an order in which each finds its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(Vec<Operation>);

/// Why a descriptor is refused: text for cudnnGetLastErrorString.
pub(super) type Refusal = String;

/// All descriptors, to follow references.
pub(super) struct Store<'a>(pub(super) &'a HashMap<Id, Descriptor>);

impl Store<'_> {
    fn get(&self, id: Id, kind: Kind) -> Result<&Descriptor, Refusal> {
        let found = self
            .0
            .get(&id)
            .ok_or_else(|| format!("{kind:?}: no such descriptor"))?;
        if found.kind != kind as u32 {
            return Err(format!("expected a {kind:?}, found kind {}", found.kind));
        }
        if !found.finalized {
            return Err(format!("{kind:?} is not finalized"));
        }
        Ok(found)
    }

    fn follow(&self, from: &Descriptor, name: Name, kind: Kind) -> Result<&Descriptor, Refusal> {
        let to = from.addresses(name as u32).and_then(|ids| ids.first().copied());
        self.get(to.ok_or_else(|| format!("{name:?} is not set"))?, kind)
    }

    fn tensor(&self, from: &Descriptor, name: Name) -> Result<Tensor, Refusal> {
        tensor(self.follow(from, name, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?)
    }

    /// The program of a graph descriptor.
    pub(super) fn program(&self, graph: &Descriptor) -> Result<Program, Refusal> {
        let operations = graph
            .addresses(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS as u32)
            .ok_or("CUDNN_ATTR_OPERATIONGRAPH_OPS is not set")?;
        let operations: Vec<Operation> = operations
            .iter()
            .map(|id| self.operation(self.0.get(id).ok_or("an operation is no descriptor")?))
            .collect::<Result<_, _>>()?;
        let program = Program(operations);
        program.check()?;
        Ok(program)
    }

    /// One operation, with its shapes checked.
    pub(super) fn operation(&self, from: &Descriptor) -> Result<Operation, Refusal> {
        let is = |kind: Kind| from.kind == kind as u32;
        let operation = if is(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
            self.scaled(
                from,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            )?;
            Operation::Forward {
                geometry: self.geometry(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC)?,
                x: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X)?,
                w: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W)?,
                y: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y)?,
            }
        } else if is(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR) {
            self.scaled(
                from,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            )?;
            Operation::DataGradient {
                geometry: self.geometry(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC)?,
                dx: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX)?,
                w: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W)?,
                dy: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY)?,
            }
        } else if is(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR) {
            self.scaled(
                from,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            )?;
            Operation::FilterGradient {
                geometry: self.geometry(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC)?,
                x: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X)?,
                dw: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW)?,
                dy: self.tensor(from, Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY)?,
            }
        } else if is(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
            self.pointwise(from)?
        } else {
            return Err(format!("operations of kind {} are not simulated", from.kind));
        };
        operation.check()?;
        Ok(operation)
    }

    /// Only y = 1 * (...) + 0 * y is simulated.
    fn scaled(&self, from: &Descriptor, alpha: Name, beta: Name) -> Result<(), Refusal> {
        match (from.float(alpha as u32), from.float(beta as u32)) {
            (Some(1.0), Some(0.0)) => Ok(()),
            found => Err(format!("alpha and beta: expected 1 and 0, found {found:?}")),
        }
    }

    fn geometry(&self, from: &Descriptor, name: Name) -> Result<Geometry, Refusal> {
        let convolution = self.follow(from, name, Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
        let pair = |name: Name| -> Result<[i64; 2], Refusal> {
            let values = convolution.integers(name as u32).unwrap_or_default();
            values
                .try_into()
                .map_err(|found| format!("{name:?}: expected 2 values, found {found:?}"))
        };
        for name in [
            Name::CUDNN_ATTR_CONVOLUTION_DILATIONS,
            Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
        ] {
            if pair(name)? != [1, 1] {
                return Err(format!("{name:?}: only 1, 1 is simulated"));
            }
        }
        let mode = convolution.word(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE as u32);
        if mode != Some(cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as u32) {
            return Err(format!(
                "convolution mode {mode:?}: only cross-correlation is simulated"
            ));
        }
        let compute = convolution.word(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE as u32);
        if compute != Some(cudnnDataType_t::CUDNN_DATA_FLOAT as u32) {
            return Err(format!("compute type {compute:?}: only fp32 is simulated"));
        }
        let padding = pair(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)?;
        if pair(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS)? != padding {
            return Err("padding that differs between the ends is not simulated".into());
        }
        Ok(Geometry { padding })
    }

    fn pointwise(&self, from: &Descriptor) -> Result<Operation, Refusal> {
        let what = self.follow(
            from,
            Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR,
            Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
        )?;
        let x = self.tensor(from, Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC)?;
        let y = self.tensor(from, Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC)?;
        let mode = what.word(Name::CUDNN_ATTR_POINTWISE_MODE as u32);
        if mode == Some(Pointwise::CUDNN_POINTWISE_ADD as u32) {
            let b = self.tensor(from, Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC)?;
            Ok(Operation::Add { x, b, y })
        } else if mode == Some(Pointwise::CUDNN_POINTWISE_RELU_FWD as u32) {
            Ok(Operation::Relu { x, y })
        } else {
            Err(format!("pointwise mode {mode:?} is not simulated"))
        }
    }
}

/// A tensor descriptor's content; refuses what this simulator does not compute with.
pub(super) fn tensor(from: &Descriptor) -> Result<Tensor, Refusal> {
    let four = |name: Name| -> Result<[i64; 4], Refusal> {
        let values = from.integers(name as u32).unwrap_or_default();
        values
            .try_into()
            .map_err(|found| format!("{name:?}: expected 4 values, found {found:?}"))
    };
    let one = |name: Name| {
        from.integers(name as u32)
            .and_then(|values| values.first().copied())
    };
    let float = match from.word(Name::CUDNN_ATTR_TENSOR_DATA_TYPE as u32) {
        Some(word) if word == cudnnDataType_t::CUDNN_DATA_FLOAT as u32 => Float::F32,
        Some(word) if word == cudnnDataType_t::CUDNN_DATA_BFLOAT16 as u32 => Float::Bf16,
        other => {
            return Err(format!(
                "tensor of data type {other:?}: fp32 and bf16 are simulated"
            ));
        }
    };
    let tensor = Tensor {
        float,
        uid: one(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID).ok_or("CUDNN_ATTR_TENSOR_UNIQUE_ID is not set")?,
        dims: four(Name::CUDNN_ATTR_TENSOR_DIMENSIONS)?,
        strides: four(Name::CUDNN_ATTR_TENSOR_STRIDES)?,
        alignment: one(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT)
            .ok_or("CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT is not set")?,
        is_virtual: from
            .flag(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL as u32)
            .unwrap_or(false),
    };
    if tensor.dims.iter().any(|dim| *dim <= 0) || tensor.strides.iter().any(|stride| *stride <= 0) {
        return Err(format!("dimensions and strides must be positive: {tensor:?}"));
    }
    Ok(tensor)
}

impl Operation {
    fn inputs(&self) -> Vec<&Tensor> {
        match self {
            Self::Forward { x, w, .. } => vec![x, w],
            Self::DataGradient { w, dy, .. } => vec![w, dy],
            Self::FilterGradient { x, dy, .. } => vec![x, dy],
            Self::Add { x, b, .. } => vec![x, b],
            Self::Relu { x, .. } => vec![x],
        }
    }

    fn output(&self) -> &Tensor {
        match self {
            Self::Forward { y, .. } | Self::Add { y, .. } | Self::Relu { y, .. } => y,
            Self::DataGradient { dx, .. } => dx,
            Self::FilterGradient { dw, .. } => dw,
        }
    }

    /// The shapes that belong together. Stricter than cuDNN, which takes a channel count that divides for groups.
    fn check(&self) -> Result<(), Refusal> {
        let convolution = |geometry: &Geometry, x: &Tensor, w: &Tensor, y: &Tensor| {
            let side = |axis: usize| x.dims[2 + axis] + 2 * geometry.padding[axis] - w.dims[2 + axis] + 1;
            let expected = [x.dims[0], w.dims[0], side(0), side(1)];
            if y.dims != expected || x.dims[1] != w.dims[1] {
                return Err(format!(
                    "shapes of a convolution: x {:?}, w {:?}, y {:?}",
                    x.dims, w.dims, y.dims
                ));
            }
            Ok(())
        };
        match self {
            Self::Forward { geometry, x, w, y } => convolution(geometry, x, w, y),
            Self::DataGradient { geometry, dx, w, dy } => convolution(geometry, dx, w, dy),
            Self::FilterGradient { geometry, x, dw, dy } => convolution(geometry, x, dw, dy),
            Self::Add { x, b, y } => {
                let broadcast = b.dims.iter().zip(x.dims).all(|(b, x)| *b == x || *b == 1);
                if x.dims != y.dims || !broadcast {
                    return Err(format!(
                        "shapes of an addition: {:?} + {:?} = {:?}",
                        x.dims, b.dims, y.dims
                    ));
                }
                Ok(())
            }
            Self::Relu { x, y } if x.dims != y.dims => {
                Err(format!("shapes of a ReLU: {:?} and {:?}", x.dims, y.dims))
            }
            Self::Relu { .. } => Ok(()),
        }
    }

    fn run(&self, memory: &Memory) {
        let view = |tensor| memory.view(tensor);
        match self {
            Self::Forward { geometry, x, w, y } => conv::forward(*geometry, view(x), view(w), view(y)),
            Self::DataGradient { geometry, dx, w, dy } => {
                conv::data_gradient(*geometry, view(dx), view(w), view(dy));
            }
            Self::FilterGradient { geometry, x, dw, dy } => {
                conv::filter_gradient(*geometry, view(x), view(dw), view(dy));
            }
            Self::Add { x, b, y } => {
                let (from, bias, to) = (view(x), view(b), view(y));
                for index in indices(y.dims) {
                    let mut at = index;
                    at.iter_mut()
                        .zip(b.dims)
                        .for_each(|(i, dim)| *i = if dim == 1 { 0 } else { *i });
                    to.set(index, from.get(index) + bias.get(at));
                }
            }
            Self::Relu { x, y } => {
                let (from, to) = (view(x), view(y));
                for index in indices(y.dims) {
                    let value = from.get(index);
                    to.set(index, if value < 0.0 { 0.0 } else { value });
                }
            }
        }
    }
}

impl Program {
    /// Virtual tensors must be made before they are used, and be used.
    fn check(&self) -> Result<(), Refusal> {
        let mut made: Vec<i64> = Vec::new();
        for operation in &self.0 {
            if let Some(missing) = operation
                .inputs()
                .into_iter()
                .find(|t| t.is_virtual && !made.contains(&t.uid))
            {
                return Err(format!(
                    "virtual tensor {} is used before it is made",
                    missing.uid
                ));
            }
            made.push(operation.output().uid);
        }
        match self.0.last() {
            Some(last) if last.output().is_virtual => Err("the last result of the graph is virtual".into()),
            Some(_) => Ok(()),
            None => Err("a graph without operations".into()),
        }
    }

    /// The tensors in device memory that are read, and the one that is written.
    pub(super) fn tensors(&self) -> (Vec<&Tensor>, Vec<&Tensor>) {
        let real = |tensor: &&Tensor| !tensor.is_virtual;
        let reads = self.0.iter().flat_map(Operation::inputs).filter(real).collect();
        let writes = self.0.iter().map(Operation::output).filter(real).collect();
        (reads, writes)
    }

    /// Computes on `addresses`: host addresses of the real tensors by name. `rounding` is what the engine does to factors.
    pub(super) fn run(&self, addresses: &HashMap<i64, usize>, rounding: fn(f32) -> f32) {
        let mut memory = Memory {
            addresses: addresses.clone(),
            scratch: Vec::new(),
            rounding,
        };
        for operation in &self.0 {
            memory.make_room_for(operation.output());
            operation.run(&memory);
        }
    }
}

/// Host memory of all tensors of one execution.
struct Memory {
    addresses: HashMap<i64, usize>,
    /// Of the virtual tensors.
    scratch: Vec<Vec<u64>>,
    rounding: fn(f32) -> f32,
}

impl Memory {
    fn make_room_for(&mut self, tensor: &Tensor) {
        if tensor.is_virtual {
            let mut room = vec![0u64; tensor.span().div_ceil(size_of::<u64>())];
            self.addresses.insert(tensor.uid, room.as_mut_ptr() as usize);
            self.scratch.push(room);
        }
    }

    fn view<'a>(&self, tensor: &'a Tensor) -> View<'a> {
        View {
            tensor,
            start: self.addresses[&tensor.uid],
            rounding: self.rounding,
        }
    }
}
