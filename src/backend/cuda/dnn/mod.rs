//! Convolutions through cuDNN's graph API: a graph of operations is described once (`graph`), the heuristics offer engines
//! for it, the first that keeps our promises becomes a plan (`plan`), and the plan runs on the arena's memory.

mod descriptor;
mod graph;
mod plan;

use std::ffi::CStr;
use std::ptr;

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnHandle_t, cudnnStatus_t,
};
use cudarc::driver::CudaStream;

use self::descriptor::Descriptor;
pub(super) use self::graph::{ConvPass, ConvShape};
pub(super) use self::plan::{Candidates, ConvPlan, ConvTensors};
use crate::error::{Error, Result};

/// Where a tensor lies on the device.
pub(super) type DevicePtr = cudarc::driver::sys::CUdeviceptr;

/// Workspace that a plan may ask for: part of what the choice of the plan depends on.
pub(super) const WORKSPACE_CAP: usize = 256 << 20;

/// What plans are made for.
pub(super) enum Target {
    /// A device: a handle, bound to one stream.
    Handle(cudnnHandle_t),
    /// A device that need not be there: its properties.
    Described(Descriptor),
}

// SAFETY: cuDNN allows a handle to be used by several threads, one at a time; the back end's lock sees to that.
unsafe impl Send for Target {}

impl Target {
    /// The device of a stream; what is executed is executed there.
    pub(super) fn of_stream(stream: &CudaStream) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        check(unsafe { sys::cudnnCreate(&raw mut handle) }, "creating a handle")?;
        let target = Self::Handle(handle);
        // SAFETY: both live; the stream outlives the handle, because the device owns both.
        let bound = unsafe { sys::cudnnSetStream(handle, stream.cu_stream().cast()) };
        check(bound, "binding the stream")?;
        Ok(target)
    }

    /// A device by its properties, in the JSON of cuDNN's device property descriptor ("Deviceless Ahead-of-time
    /// Compilation" in the documentation of its front end). Nothing can be executed.
    pub(super) fn described(json: &str) -> Result<Self> {
        let name = Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION;
        Descriptor::new(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?
            .set(name, Type::CUDNN_TYPE_CHAR, json.as_bytes())?
            .finalize("reading the properties of a device")
            .map(Self::Described)
    }

    fn of_graph(&self, graph: Descriptor) -> Result<Descriptor> {
        match self {
            Self::Handle(handle) => graph.set(
                Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE,
                Type::CUDNN_TYPE_HANDLE,
                &[*handle],
            ),
            Self::Described(_) => Ok(graph),
        }
    }

    fn of_heuristics(&self, heuristics: Descriptor) -> Result<Descriptor> {
        match self {
            Self::Handle(_) => Ok(heuristics),
            Self::Described(device) => {
                heuristics.descriptors(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device])
            }
        }
    }

    fn of_plan(&self, plan: Descriptor) -> Result<Descriptor> {
        match self {
            Self::Handle(handle) => plan.set(
                Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
                Type::CUDNN_TYPE_HANDLE,
                &[*handle],
            ),
            Self::Described(device) => {
                plan.descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[device])
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::Handle(handle) = self {
            // SAFETY: made by cudnnCreate and not destroyed yet.
            unsafe { sys::cudnnDestroy(*handle) };
        }
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
    Err(failure(format!(
        "{doing}: {status:?}: {}",
        said.to_string_lossy()
    )))
}

fn failure(reason: String) -> Error {
    Error::Device {
        device: "cuDNN".into(),
        reason,
    }
}
