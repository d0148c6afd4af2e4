//! The update rule and the reduction tree.

use cudarc::driver::{DeviceRepr, PushKernelArg};

use super::{DevicePtr, Launcher, Work, failed, launch};
use crate::error::{Error, Result};

/// Buffers that one tree addition can read.
pub const SLOTS: usize = 16;

/// The twin of Slots in tree_add.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Slots([DevicePtr; SLOTS]);

// SAFETY: plain addresses, no padding.
unsafe impl DeviceRepr for Slots {}

impl Launcher {
    /// weights, momentum: one step of the update rule in place. Overwrites copy, where there is one, with the new weights
    /// rounded.
    ///
    /// # Safety
    ///
    /// weights, momentum and gradient: n f32; copy: n bf16; params: a [`DeviceStepParams`](super::DeviceStepParams) whose rate is that
    /// of the array.
    pub unsafe fn update_parameters(
        &self,
        [weights, momentum, gradient]: [DevicePtr; 3],
        copy: Option<DevicePtr>,
        n: usize,
        params: DevicePtr,
        factors: UpdateFactors,
    ) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let (copy, n) = (copy.unwrap_or(0), n as u64);
        let UpdateFactors {
            rate,
            decay,
            momentum: factor,
            batch,
        } = factors;
        launch!(
            self, update_parameters, work;
            weights, momentum, gradient, copy, n, params, rate, decay, factor, batch
        )
    }

    /// running = fma(weight, sums / micro_batches - running, running) in place.
    ///
    /// # Safety
    ///
    /// running and sums: n f32.
    pub unsafe fn update_statistics(
        &self,
        running: DevicePtr,
        sums: DevicePtr,
        n: usize,
        weight: f32,
        micro_batches: f32,
    ) -> Result<()> {
        let work = Work::Items(n);
        let n = n as u64;
        launch!(self, update_statistics, work; running, sums, n, weight, micro_batches)
    }

    /// `slots[0] <- slots[0] + (slots[1] + (... + slots[k]))`, in one pass.
    ///
    /// # Safety
    ///
    /// Each slot: n f32; at most [`SLOTS`] of them.
    pub unsafe fn tree_add(&self, slots: &[DevicePtr], n: usize) -> Result<()> {
        if slots.is_empty() || slots.len() > SLOTS {
            return Err(Error::invalid(
                "slots of a tree addition",
                format_args!("1 to {SLOTS}"),
                slots.len(),
            ));
        }
        let mut buffers = Slots([0; SLOTS]);
        buffers.0[..slots.len()].copy_from_slice(slots);
        let work = Work::Items(n.div_ceil(4));
        let (count, n) = (slots.len() as u32, n as u64);
        launch!(self, tree_add, work; buffers, count, n)
    }
}

/// The numbers of the update rule for one array.
#[derive(Debug, Clone, Copy)]
pub struct UpdateFactors {
    /// Multiplies the step's learning rate.
    pub rate: f32,
    /// L2 multiplier.
    pub decay: f32,
    /// Momentum.
    pub momentum: f32,
    /// Global batch.
    pub batch: f32,
}
