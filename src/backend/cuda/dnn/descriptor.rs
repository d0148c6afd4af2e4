//! Descriptors: the objects of cuDNN's graph API, made, set, finalized and read.

use std::ptr;
use std::sync::Arc;

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptor_t,
    cudnnBackendDescriptorType_t as Kind, cudnnDataType_t,
};

use super::check;
use crate::error::Result;

/// One object of the graph API. Keeps alive what it refers to: whether cuDNN copies that is not documented.
#[derive(Clone)]
pub(crate) struct Descriptor {
    raw: Arc<Raw>,
    pub(super) parts: Vec<Descriptor>,
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
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: writes one descriptor.
        let status = unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut descriptor) };
        check(status, "creating a descriptor")?;
        Ok(Self {
            raw: Arc::new(Raw(descriptor)),
            parts: Vec::new(),
        })
    }

    pub(super) fn raw(&self) -> cudnnBackendDescriptor_t {
        self.raw.0
    }

    pub(super) fn set<T: Copy>(self, name: Name, ty: Type, values: &[T]) -> Result<Self> {
        // SAFETY: cuDNN copies `values.len()` elements of the type that `ty` names; the callers below pair them.
        let status = unsafe {
            sys::cudnnBackendSetAttribute(self.raw(), name, ty, values.len() as i64, values.as_ptr().cast())
        };
        check(status, &format!("setting {name:?}"))?;
        Ok(self)
    }

    pub(super) fn integers(self, name: Name, values: &[i64]) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    pub(super) fn float(self, name: Name, value: f32) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    pub(super) fn data_type(self, name: Name, value: cudnnDataType_t) -> Result<Self> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[value])
    }

    pub(super) fn descriptors(self, name: Name, values: &[&Descriptor]) -> Result<Self> {
        let raw: Vec<cudnnBackendDescriptor_t> = values.iter().map(|d| d.raw()).collect();
        let mut described = self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)?;
        described.parts.extend(values.iter().copied().cloned());
        Ok(described)
    }

    pub(super) fn finalize(self, what: &str) -> Result<Self> {
        // SAFETY: a descriptor that is not finalized yet.
        check(unsafe { sys::cudnnBackendFinalize(self.raw()) }, what)?;
        Ok(self)
    }

    /// How many values an attribute has.
    pub(super) fn count(&self, name: Name, ty: Type) -> Result<usize> {
        let mut count = 0;
        // SAFETY: with a request for none, only the number is written.
        let status = unsafe {
            sys::cudnnBackendGetAttribute(self.raw(), name, ty, 0, &raw mut count, ptr::null_mut())
        };
        check(status, &format!("counting {name:?}"))?;
        Ok(count.unsigned_abs() as usize)
    }

    /// Up to `values.len()` values of an attribute into `values`; how many there were.
    pub(super) fn get<T: Copy>(&self, name: Name, ty: Type, values: &mut [T]) -> Result<usize> {
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
