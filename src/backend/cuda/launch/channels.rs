//! Across the channels of a pixel, or the classes of an image: LRN, soft-max and the loss.

use cudarc::driver::PushKernelArg;

use super::{BLOCK, DevicePtr, Launcher, Work, failed, launch};
use crate::error::Result;

impl Launcher {
    /// Local response normalisation over the channels. Overwrites y.
    ///
    /// # Safety
    ///
    /// x and y: (pixels, channels) f32.
    pub unsafe fn lrn_forward(
        &self,
        x: DevicePtr,
        y: DevicePtr,
        pixels: usize,
        channels: usize,
    ) -> Result<()> {
        let work = Work::Blocks((pixels * channels).div_ceil(4 * BLOCK as usize));
        let (pixels, channels) = (pixels as u64, channels as u32);
        launch!(self, lrn_forward, work; x, y, pixels, channels)
    }

    /// Its gradient; where `masked`, 0 where x is not positive. Overwrites dx.
    ///
    /// # Safety
    ///
    /// x, dy and dx: (pixels, channels) f32.
    pub unsafe fn lrn_backward(
        &self,
        x: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        pixels: usize,
        channels: usize,
        masked: bool,
    ) -> Result<()> {
        let work = Work::Blocks((pixels * channels).div_ceil(4 * BLOCK as usize));
        let (pixels, channels, masked) = (pixels as u64, channels as u32, u32::from(masked));
        launch!(self, lrn_backward, work; x, dy, dx, pixels, channels, masked)
    }

    /// Posteriors, losses and ranks of the true classes. Overwrites all three.
    ///
    /// # Safety
    ///
    /// x and y: (batch, classes) f32; labels and ranks: (batch) u32, each label below `classes`; losses: (batch) f32.
    pub unsafe fn softmax_cross_entropy_forward(
        &self,
        batch: usize,
        classes: usize,
        x: DevicePtr,
        labels: DevicePtr,
        [y, losses, ranks]: [DevicePtr; 3],
    ) -> Result<()> {
        let work = Work::Blocks(batch);
        let (batch, classes) = (batch as u64, classes as u32);
        launch!(self, softmax_cross_entropy_forward, work; x, labels, y, losses, ranks, batch, classes)
    }

    /// dx = y minus 1 at the true class: the gradient of the sum of the losses. Overwrites dx.
    ///
    /// # Safety
    ///
    /// y and dx: (batch, classes) f32; labels: (batch) u32.
    pub unsafe fn softmax_cross_entropy_backward(
        &self,
        batch: usize,
        classes: usize,
        y: DevicePtr,
        labels: DevicePtr,
        dx: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(batch * classes);
        let (batch, classes) = (batch as u64, classes as u32);
        launch!(self, softmax_cross_entropy_backward, work; y, labels, dx, batch, classes)
    }
}
