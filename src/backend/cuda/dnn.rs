//! Convolutions through cuDNN's graph API: a graph of operations is described once, the heuristics offer engines for
//! it, the first that keeps our promises becomes a plan, and the plan runs on the arena's memory.
//!
//! Tensors are NHWC, filters (K, R, S, C); all are fp32 and accumulated in fp32.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptor_t,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Heuristic,
    cudnnBackendNumericalNote_t as Note, cudnnConvolutionMode_t, cudnnDataType_t, cudnnHandle_t,
    cudnnPointwiseMode_t as Pointwise, cudnnStatus_t,
};
use cudarc::driver::CudaStream;

use crate::error::{Error, Result};

/// Where a tensor lies on the device.
pub(super) type DevicePtr = cudarc::driver::sys::CUdeviceptr;

/// Workspace that a plan may ask for: part of what the choice of the plan depends on.
pub(super) const WORKSPACE_CAP: usize = 256 << 20;

/// cuDNN, bound to one stream.
pub(super) struct Dnn {
    handle: cudnnHandle_t,
}

// SAFETY: cuDNN allows a handle to be used by several threads, one at a time; the back end's lock sees to that.
unsafe impl Send for Dnn {}

impl Dnn {
    pub(super) fn new(stream: &CudaStream) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        check(unsafe { sys::cudnnCreate(&raw mut handle) }, "creating a handle")?;
        let dnn = Self { handle };
        // SAFETY: both live; the stream outlives the handle, because the device owns both.
        let bound = unsafe { sys::cudnnSetStream(handle, stream.cu_stream().cast()) };
        check(bound, "binding the stream")?;
        Ok(dnn)
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        // SAFETY: made by cudnnCreate and not destroyed yet.
        unsafe { sys::cudnnDestroy(self.handle) };
    }
}

/// Every status becomes an error that says what cuDNN itself says.
fn check(status: cudnnStatus_t, doing: &str) -> Result<()> {
    if status == cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut text = [0; 512];
    // SAFETY: writes at most as many bytes, NUL-terminated.
    let said = unsafe {
        sys::cudnnGetLastErrorString(text.as_mut_ptr(), text.len());
        CStr::from_ptr(text.as_ptr())
    };
    Err(Error::Device {
        device: "cuDNN".into(),
        reason: format!("{doing}: {status:?}: {}", said.to_string_lossy()),
    })
}

/// One object of the graph API. Keeps alive what it refers to: whether cuDNN copies that is not documented.
#[derive(Clone)]
struct Descriptor {
    raw: Arc<Raw>,
    parts: Vec<Descriptor>,
}

/// Destroyed on drop.
struct Raw(cudnnBackendDescriptor_t);

// SAFETY: a descriptor is plain memory of cuDNN's, used by one thread at a time.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: made by cudnnBackendCreateDescriptor and not destroyed yet.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl Descriptor {
    fn new(kind: Kind) -> Result<Self> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: writes one descriptor.
        let status = unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut descriptor) };
        check(status, "creating a descriptor")?;
        Ok(Self {
            raw: Arc::new(Raw(descriptor)),
            parts: Vec::new(),
        })
    }

    fn raw(&self) -> cudnnBackendDescriptor_t {
        self.raw.0
    }

    fn set<T: Copy>(self, name: Name, ty: Type, values: &[T]) -> Result<Self> {
        // SAFETY: cuDNN copies `values.len()` elements of the type that `ty` names; the callers below pair them.
        let status = unsafe {
            sys::cudnnBackendSetAttribute(self.raw(), name, ty, values.len() as i64, values.as_ptr().cast())
        };
        check(status, &format!("setting {name:?}"))?;
        Ok(self)
    }

    fn integers(self, name: Name, values: &[i64]) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    fn float(self, name: Name, value: f32) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    fn data_type(self, name: Name, value: cudnnDataType_t) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[value])
    }

    fn descriptors(self, name: Name, values: &[&Descriptor]) -> Result<Self> {
        let raw: Vec<cudnnBackendDescriptor_t> = values.iter().map(|d| d.raw()).collect();
        let mut described = self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)?;
        described.parts.extend(values.iter().copied().cloned());
        Ok(described)
    }

    fn handle(self, name: Name, dnn: &Dnn) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[dnn.handle])
    }

    fn finalize(self, what: &str) -> Result<Self> {
        // SAFETY: a descriptor that is not finalized yet.
        check(unsafe { sys::cudnnBackendFinalize(self.raw()) }, what)?;
        Ok(self)
    }

    /// How many values an attribute has.
    fn count(&self, name: Name, ty: Type) -> Result<usize> {
        let mut count = 0;
        // SAFETY: with a request for none, only the number is written.
        let status = unsafe {
            sys::cudnnBackendGetAttribute(self.raw(), name, ty, 0, &raw mut count, ptr::null_mut())
        };
        check(status, &format!("counting {name:?}"))?;
        Ok(count.unsigned_abs() as usize)
    }

    /// Up to `values.len()` values of an attribute into `values`; how many there were.
    fn get<T: Copy>(&self, name: Name, ty: Type, values: &mut [T]) -> Result<usize> {
        let mut count = 0;
        let room = values.len() as i64;
        // SAFETY: cuDNN writes at most `room` elements of the type that `ty` names; the callers below pair them.
        let status = unsafe {
            sys::cudnnBackendGetAttribute(
                self.raw(),
                name,
                ty,
                room,
                &raw mut count,
                values.as_mut_ptr().cast(),
            )
        };
        check(status, &format!("reading {name:?}"))?;
        Ok(values.len().min(count.unsigned_abs() as usize))
    }
}

/// The sizes of a convolution with stride 1 and size-preserving zero padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ConvShape {
    /// Images.
    pub(super) n: usize,
    /// Input channels as they lie in memory, padding included.
    pub(super) c: usize,
    /// Output channels.
    pub(super) k: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    /// Side of the filter.
    pub(super) kernel: usize,
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ConvPass {
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
enum Uid {
    X = 1,
    W = 2,
    Y = 3,
    Bias = 4,
    /// The convolution's result before the bias; never in memory.
    Product = 5,
    /// The result before the ReLU; never in memory.
    Sum = 6,
}

/// The memory of one execution. What the pass does not use is ignored.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvTensors {
    /// x, or dx: (N, H, W, C).
    pub(super) x: DevicePtr,
    /// w, or dw: (K, R, S, C).
    pub(super) w: DevicePtr,
    /// y, or dy: (N, H, W, K).
    pub(super) y: DevicePtr,
    /// (K).
    pub(super) bias: DevicePtr,
}

/// A graph with the engine that executes it.
pub(super) struct ConvPlan {
    pass: ConvPass,
    plan: Descriptor,
    workspace: usize,
}

impl ConvPlan {
    /// The first plan of the heuristics that is deterministic, computes in fp32 throughout and needs at most
    /// [`WORKSPACE_CAP`] bytes: a function of (cuDNN's version, device, shape), never of a measurement.
    pub(super) fn new(dnn: &Dnn, pass: ConvPass, shape: ConvShape) -> Result<Self> {
        let graph = match pass {
            ConvPass::Forward { relu } => forward_graph(dnn, shape, relu)?,
            ConvPass::DataGradient => data_gradient_graph(dnn, shape)?,
            ConvPass::FilterGradient => filter_gradient_graph(dnn, shape)?,
        };
        let mut refused = Vec::new();
        for config in engine_configs(&graph)? {
            match plan_of(dnn, &config) {
                Ok((plan, workspace)) => {
                    return Ok(Self {
                        pass,
                        plan,
                        workspace,
                    });
                }
                Err(why) => refused.push(why.to_string()),
            }
        }
        Err(Error::Device {
            device: "cuDNN".into(),
            reason: format!(
                "no deterministic fp32 plan for {pass:?} of {shape:?} within {WORKSPACE_CAP} bytes of workspace; {} \
                 were offered: {}",
                refused.len(),
                refused.join("; ")
            ),
        })
    }

    /// Bytes of workspace.
    pub(super) fn workspace(&self) -> usize {
        self.workspace
    }

    /// Enqueues the execution on the handle's stream.
    ///
    /// # Safety
    ///
    /// The tensors must have the plan's sizes, the workspace at least [`ConvPlan::workspace`] bytes, and all stay allocated until the stream has executed it.
    pub(super) unsafe fn execute(&self, dnn: &Dnn, tensors: ConvTensors, workspace: DevicePtr) -> Result<()> {
        let named = [
            (Uid::X, tensors.x),
            (Uid::W, tensors.w),
            (Uid::Y, tensors.y),
            (Uid::Bias, tensors.bias),
        ];
        let used = match self.pass {
            ConvPass::Forward { .. } => &named[..],
            ConvPass::DataGradient | ConvPass::FilterGradient => &named[..3],
        };
        let uids: Vec<i64> = used.iter().map(|(uid, _)| *uid as i64).collect();
        let pointers: Vec<*mut c_void> = used.iter().map(|(_, pointer)| *pointer as *mut c_void).collect();
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &uids)?
            .set(
                Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                Type::CUDNN_TYPE_VOID_PTR,
                &pointers,
            )?
            .set(
                Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                Type::CUDNN_TYPE_VOID_PTR,
                &[workspace as *mut c_void],
            )?
            .finalize("finalizing a variant pack")?;
        // SAFETY: the caller vouches for the memory; plan and pack are finalized.
        let status = unsafe { sys::cudnnBackendExecute(dnn.handle, self.plan.raw(), pack.raw()) };
        check(status, "executing a convolution")
    }
}

fn tensor(uid: Uid, [n, c, h, w]: [usize; 4], is_virtual: bool) -> Result<Descriptor> {
    let [n, c, h, w] = [n, c, h, w].map(|size| size as i64);
    Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .data_type(
            Name::CUDNN_ATTR_TENSOR_DATA_TYPE,
            cudnnDataType_t::CUDNN_DATA_FLOAT,
        )?
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
    fn x(self) -> Result<Descriptor> {
        tensor(Uid::X, [self.n, self.c, self.h, self.w], false)
    }

    fn w(self) -> Result<Descriptor> {
        tensor(Uid::W, [self.k, self.c, self.kernel, self.kernel], false)
    }

    fn y(self, uid: Uid, is_virtual: bool) -> Result<Descriptor> {
        tensor(uid, [self.n, self.k, self.h, self.w], is_virtual)
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

fn forward_graph(dnn: &Dnn, shape: ConvShape, relu: bool) -> Result<Descriptor> {
    let product = shape.y(Uid::Product, true)?;
    let bias = tensor(Uid::Bias, [1, shape.k, 1, 1], false)?;
    let convolution = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.0)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            &[&shape.convolution()?],
        )?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, &[&shape.x()?])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, &[&shape.w()?])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[&product])?
        .finalize("finalizing a forward convolution")?;
    let sum = shape.y(if relu { Uid::Sum } else { Uid::Y }, relu)?;
    let add = pointwise(Pointwise::CUDNN_POINTWISE_ADD, &product, Some(&bias), &sum)?;
    if !relu {
        return graph(dnn, &[&convolution, &add]);
    }
    let relu = pointwise(
        Pointwise::CUDNN_POINTWISE_RELU_FWD,
        &sum,
        None,
        &shape.y(Uid::Y, false)?,
    )?;
    graph(dnn, &[&convolution, &add, &relu])
}

fn data_gradient_graph(dnn: &Dnn, shape: ConvShape) -> Result<Descriptor> {
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, 1.0)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, 0.0)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
            &[&shape.convolution()?],
        )?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, &[&shape.w()?])?
        .descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, &[&shape.x()?])?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            &[&shape.y(Uid::Y, false)?],
        )?
        .finalize("finalizing a data gradient")?;
    graph(dnn, &[&operation])
}

fn filter_gradient_graph(dnn: &Dnn, shape: ConvShape) -> Result<Descriptor> {
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, 1.0)?
        .float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, 0.0)?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            &[&shape.convolution()?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
            &[&shape.x()?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            &[&shape.w()?],
        )?
        .descriptors(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
            &[&shape.y(Uid::Y, false)?],
        )?
        .finalize("finalizing a filter gradient")?;
    graph(dnn, &[&operation])
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

fn graph(dnn: &Dnn, operations: &[&Descriptor]) -> Result<Descriptor> {
    Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, dnn)?
        .descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, operations)?
        .finalize("finalizing a graph")
}

/// What the heuristics offer, the most promising first.
fn engine_configs(graph: &Descriptor) -> Result<Vec<Descriptor>> {
    let heuristic = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph])?
        .set(
            Name::CUDNN_ATTR_ENGINEHEUR_MODE,
            Type::CUDNN_TYPE_HEUR_MODE,
            &[Heuristic::CUDNN_HEUR_MODE_A],
        )?
        .finalize("asking the heuristics")?;
    let results = (
        Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
        Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
    );
    let count = heuristic.count(results.0, results.1)?;
    let mut configs = (0..count)
        .map(|_| Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
        .collect::<Result<Vec<_>>>()?;
    // cuDNN fills descriptors that the caller made.
    let mut raw: Vec<cudnnBackendDescriptor_t> = configs.iter().map(Descriptor::raw).collect();
    let filled = heuristic.get(results.0, results.1, &mut raw)?;
    configs.truncate(filled);
    configs
        .iter_mut()
        .for_each(|config| config.parts.push(heuristic.clone()));
    Ok(configs)
}

/// Notes of an engine that break a promise: sums in an order that varies, arithmetic below fp32.
const UNWANTED: [Note; 4] = [
    Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
    Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
    Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
    Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
];

/// The plan of an engine configuration and its workspace, unless it breaks a promise.
fn plan_of(dnn: &Dnn, config: &Descriptor) -> Result<(Descriptor, usize)> {
    let refuse = |reason: String| Error::Device {
        device: "cuDNN".into(),
        reason,
    };
    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    let descriptor = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
    config.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, descriptor, &mut [engine.raw()])?;
    let mut notes = [Note::CUDNN_NUMERICAL_NOTE_TYPE_COUNT; 16];
    let count = engine.get(
        Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
        Type::CUDNN_TYPE_NUMERICAL_NOTE,
        &mut notes,
    )?;
    if let Some(note) = notes[..count].iter().find(|note| UNWANTED.contains(note)) {
        return Err(refuse(format!("{note:?}")));
    }
    let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
        .handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, dnn)?
        .descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[config])?
        .finalize("finalizing a plan")?;
    let mut workspace = [0i64];
    plan.get(
        Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
        Type::CUDNN_TYPE_INT64,
        &mut workspace,
    )?;
    let workspace = workspace[0].unsigned_abs() as usize;
    if workspace > WORKSPACE_CAP {
        return Err(refuse(format!("{workspace} bytes of workspace")));
    }
    Ok((plan, workspace))
}
