//! The three passes of a convolution as graphs of operations. Tensors are NHWC, filters (K, R, S, C).

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnConvolutionMode_t, cudnnDataType_t,
    cudnnPointwiseMode_t as Pointwise,
};

use super::Target;
use super::descriptor::Descriptor;
use crate::backend::Precision;
use crate::error::Result;

/// The sizes of a convolution with stride 1 and size-preserving zero padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConvShape {
    /// Images.
    pub(crate) n: usize,
    /// Input channels as they lie in memory, padding included.
    pub(crate) c: usize,
    /// Output channels.
    pub(crate) k: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    /// Side of the filter.
    pub(crate) kernel: usize,
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ConvPass {
    /// y = x * w + bias; then max(y, 0), where asked for.
    Forward { relu: bool },
    /// dx of dy and w. Overwrites dx.
    DataGradient,
    /// dw of x and dy. Overwrites dw.
    FilterGradient,
}

/// The names of the tensors of a graph.
#[derive(Debug, Clone, Copy)]
#[repr(i64)]
pub(super) enum Uid {
    X = 1,
    W = 2,
    Y = 3,
    Bias = 4,
    /// The convolution's result before the bias; never in memory.
    Product = 5,
    /// The result before the ReLU; never in memory.
    Sum = 6,
}

impl ConvPass {
    /// As reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Forward { .. } => "forward",
            Self::DataGradient => "data gradient",
            Self::FilterGradient => "filter gradient",
        }
    }

    /// The pass as a graph.
    pub(super) fn graph(self, target: &Target, precision: Precision, shape: ConvShape) -> Result<Descriptor> {
        match self {
            Self::Forward { relu } => forward(target, precision, shape, relu),
            Self::DataGradient => data_gradient(target, precision, shape),
            Self::FilterGradient => filter_gradient(target, precision, shape),
        }
    }
}

/// A tensor in memory, of the precision's element type.
fn tensor(precision: Precision, uid: Uid, sizes: [usize; 4]) -> Result<Descriptor> {
    described(precision.element(), uid, sizes, false)
}

/// A result that the next operation takes over: never in memory, never rounded.
fn passed_on(uid: Uid, sizes: [usize; 4]) -> Result<Descriptor> {
    described(cudnnDataType_t::CUDNN_DATA_FLOAT, uid, sizes, true)
}

fn described(
    element: cudnnDataType_t,
    uid: Uid,
    [n, c, h, w]: [usize; 4],
    is_virtual: bool,
) -> Result<Descriptor> {
    let [n, c, h, w] = [n, c, h, w].map(|size| size as i64);
    Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .data_type(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, element)?
        .integers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?
        // Dimensions are in the order N, C, H, W; channels are innermost in memory.
        .integers(Name::CUDNN_ATTR_TENSOR_STRIDES, &[c * h * w, 1, c * w, c])?
        .integers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[uid as i64])?
        .integers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16])?
        .set(
            Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL,
            Type::CUDNN_TYPE_BOOLEAN,
            &[is_virtual],
        )?
        .finalize("finalizing a tensor")
}

impl ConvShape {
    fn x(self, precision: Precision) -> Result<Descriptor> {
        tensor(precision, Uid::X, [self.n, self.c, self.h, self.w])
    }

    fn w(self, precision: Precision) -> Result<Descriptor> {
        tensor(precision, Uid::W, [self.k, self.c, self.kernel, self.kernel])
    }

    fn y(self, precision: Precision) -> Result<Descriptor> {
        tensor(precision, Uid::Y, self.result())
    }

    /// Sizes of y, and of what leads to it.
    fn result(self) -> [usize; 4] {
        [self.n, self.k, self.h, self.w]
    }

    fn convolution(self) -> Result<Descriptor> {
        let padding = (self.kernel / 2) as i64;
        Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .data_type(
                Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
                cudnnDataType_t::CUDNN_DATA_FLOAT,
            )?
            .set(
                Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                Type::CUDNN_TYPE_CONVOLUTION_MODE,
                &[cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION],
            )?
            .integers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?
            .integers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1, 1])?
            .integers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &[1, 1])?
            .integers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[padding, padding])?
            .integers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &[padding, padding])?
            .finalize("finalizing a convolution")
    }
}

fn forward(target: &Target, precision: Precision, shape: ConvShape, relu: bool) -> Result<Descriptor> {
    let product = passed_on(Uid::Product, shape.result())?;
    let bias = tensor(precision, Uid::Bias, [1, shape.k, 1, 1])?;
    let y = shape.y(precision)?;
    let convolution = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.0)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            &[&shape.convolution()?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
            &[&shape.x(precision)?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
            &[&shape.w(precision)?],
        )?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[&product])?
        .finalize("finalizing a forward convolution")?;
    if !relu {
        let add = pointwise(Pointwise::CUDNN_POINTWISE_ADD, &product, Some(&bias), &y)?;
        return graph(target, &[&convolution, &add]);
    }
    let sum = passed_on(Uid::Sum, shape.result())?;
    let add = pointwise(Pointwise::CUDNN_POINTWISE_ADD, &product, Some(&bias), &sum)?;
    let relu = pointwise(Pointwise::CUDNN_POINTWISE_RELU_FWD, &sum, None, &y)?;
    graph(target, &[&convolution, &add, &relu])
}

fn data_gradient(target: &Target, precision: Precision, shape: ConvShape) -> Result<Descriptor> {
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, 1.0)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, 0.0)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
            &[&shape.convolution()?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
            &[&shape.w(precision)?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
            &[&shape.x(precision)?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            &[&shape.y(precision)?],
        )?
        .finalize("finalizing a data gradient")?;
    graph(target, &[&operation])
}

fn filter_gradient(target: &Target, precision: Precision, shape: ConvShape) -> Result<Descriptor> {
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, 1.0)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, 0.0)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            &[&shape.convolution()?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
            &[&shape.x(precision)?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            &[&shape.w(precision)?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
            &[&shape.y(precision)?],
        )?
        .finalize("finalizing a filter gradient")?;
    graph(target, &[&operation])
}

/// y = mode(x), or mode(x, b) with b broadcast over images and pixels.
fn pointwise(mode: Pointwise, x: &Descriptor, b: Option<&Descriptor>, y: &Descriptor) -> Result<Descriptor> {
    let what = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
        .set(
            Name::CUDNN_ATTR_POINTWISE_MODE,
            Type::CUDNN_TYPE_POINTWISE_MODE,
            &[mode],
        )?
        .data_type(
            Name::CUDNN_ATTR_POINTWISE_MATH_PREC,
            cudnnDataType_t::CUDNN_DATA_FLOAT,
        )?
        .finalize("finalizing a pointwise mode")?;
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[&what])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[x])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])?;
    let operation = match b {
        Some(b) => operation.descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[b])?,
        None => operation,
    };
    operation.finalize("finalizing a pointwise operation")
}

fn graph(target: &Target, operations: &[&Descriptor]) -> Result<Descriptor> {
    let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    target
        .of_graph(graph)?
        .descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, operations)?
        .finalize("finalizing a graph")
}
