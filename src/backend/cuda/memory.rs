//! Memory on the device, and where a step finds its tensors in it.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _, DriverError};
use half::bf16;

use super::device::failed;
use super::dnn::DevicePtr;
use super::launch::Element;
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::plan::{Pass, Plan, Region};

/// An arena, or a flat vector of all parameters, on a device.
///
/// Parameters lie there as they do in a checkpoint: (K, C, R, S) and (out, in) with `in` in the order C, H, W. What
/// wants another order (cuDNN's filters) gets a copy in scratch.
pub struct Buffer {
    /// f32 elements; an arena is a whole number of them, too.
    slice: CudaSlice<f32>,
    /// Of weights that products read in bf16: all of them, rounded. Whoever writes weights writes it, too.
    copy: Option<CudaSlice<bf16>>,
    stream: Arc<CudaStream>,
}

impl Buffer {
    /// Memory for `bytes` bytes that nobody has written yet.
    pub(super) fn new(stream: &Arc<CudaStream>, what: &str, bytes: usize) -> Result<Self> {
        // The driver refuses to allocate nothing.
        let elements = bytes.div_ceil(size_of::<f32>()).max(1);
        // SAFETY: steps write values before they read them; what must be zero comes from `zeroed`.
        let slice = unsafe { stream.alloc(elements) }.map_err(|why| refused(stream, what, bytes, &why))?;
        Ok(Self {
            slice,
            copy: None,
            stream: Arc::clone(stream),
        })
    }

    /// Memory for `bytes` bytes, all 0.
    pub(super) fn zeroed(stream: &Arc<CudaStream>, what: &str, bytes: usize) -> Result<Self> {
        let mut buffer = Self::new(stream, what, bytes)?;
        let cleared = stream.memset_zeros(&mut buffer.slice);
        cleared.map_err(|why| failed(&device_of(stream), "clearing memory", &why))?;
        Ok(buffer)
    }

    /// Adds a copy of every element in bf16, all 0.
    pub(super) fn with_bf16_copy(mut self, what: &str) -> Result<Self> {
        let elements = self.len();
        let copy = self.stream.alloc_zeros(elements);
        let copy = copy.map_err(|why| refused(&self.stream, what, elements * size_of::<bf16>(), &why))?;
        self.copy = Some(copy);
        Ok(self)
    }

    /// The address of element `index` of the copy, where there is one.
    pub(super) fn bf16_copy(&self, index: usize) -> Option<DevicePtr> {
        let copy = self.copy.as_ref()?;
        Some(copy.device_ptr(&self.stream).0 + (index * size_of::<bf16>()) as u64)
    }

    /// Elements of f32.
    pub(super) fn len(&self) -> usize {
        self.slice.len()
    }

    /// Its size, rounded up to whole elements.
    pub fn bytes(&self) -> usize {
        self.slice.num_bytes()
    }

    /// The address of byte `offset`.
    pub(super) fn at(&self, offset: usize) -> DevicePtr {
        debug_assert!(offset <= self.slice.num_bytes(), "inside the buffer");
        self.slice.device_ptr(&self.stream).0 + offset as u64
    }

    /// The address of element `index`.
    pub(super) fn element(&self, index: usize) -> DevicePtr {
        self.at(index * size_of::<f32>())
    }
}

fn device_of(stream: &CudaStream) -> String {
    format!("cuda:{}", stream.context().ordinal())
}

/// The error of an allocation.
pub(super) fn refused(stream: &CudaStream, what: &str, bytes: usize, why: &DriverError) -> Error {
    match why.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory {
            what: format!("{what} on {}", device_of(stream)),
            bytes: bytes as u64,
        },
        _ => failed(&device_of(stream), &format!("allocating {what}"), why),
    }
}

/// Parameter arrays of a step at most: those of batch norm.
pub(super) const ARRAYS: usize = 4;

/// Addresses of what one pass of one step reads and writes. Of what the pass has no use for, the address may belong to
/// something else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// x, (N, H, W, C).
    pub(super) input: DevicePtr,
    /// y, (N, H, W, C).
    pub(super) value: DevicePtr,
    pub(super) saved: DevicePtr,
    /// Of this pass; undefined before and after.
    pub(super) scratch: DevicePtr,
    /// dy; free to be overwritten.
    pub(super) gradient: DevicePtr,
    /// dx; `None` where it is not wanted.
    pub(super) input_gradient: Option<DevicePtr>,
    /// The step's arrays in the order of the plan.
    pub(super) weights: [DevicePtr; ARRAYS],
    /// The same as products read them, in the type of the activations.
    pub(super) factors: [DevicePtr; ARRAYS],
    /// Their gradients.
    pub(super) weight_gradients: [DevicePtr; ARRAYS],
}

impl Places {
    /// Errors where products read bf16 and the weights have no copy in bf16.
    pub(super) fn new(
        plan: &Plan,
        step: usize,
        pass: Pass,
        element: Element,
        memory: &Memory<'_, Buffer>,
    ) -> Result<Self> {
        let place = |region: Region| memory.arena.at(region.offset);
        let regions = plan.steps[step].memory;
        let mut weights = [0; ARRAYS];
        let mut factors = [0; ARRAYS];
        let mut weight_gradients = [0; ARRAYS];
        for (i, parameter) in plan.parameters_of(step).iter().enumerate() {
            weights[i] = memory.weights.element(parameter.offset);
            factors[i] = match element {
                Element::F32 => weights[i],
                Element::Bf16 => memory.weights.bf16_copy(parameter.offset).ok_or_else(|| {
                    Error::invalid(
                        "weights",
                        "from allocate_weights, with a copy in bf16",
                        "without one",
                    )
                })?,
            };
            // In evaluation the leaf is empty; nothing is written to it then.
            if parameter.range().end <= memory.gradient.len() {
                weight_gradients[i] = memory.gradient.element(parameter.offset);
            }
        }
        Ok(Self {
            input: if step == 0 { 0 } else { place(plan.input_of(step)) },
            value: place(regions.value),
            saved: place(regions.saved),
            scratch: place(match pass {
                Pass::Forward => regions.forward_scratch,
                Pass::Backward => regions.backward_scratch,
            }),
            gradient: place(regions.gradient),
            input_gradient: plan.input_gradient_of(step).map(place),
            weights,
            factors,
            weight_gradients,
        })
    }
}
