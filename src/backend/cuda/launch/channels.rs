//! Across the channels of a pixel, or the classes of an image: LRN, soft-max and the loss.

use cudarc::driver::PushKernelArg;

use super::{BLOCK, DevicePtr, Element, Launcher, Rows, Work, failed, launch};
use crate::error::Result;

impl Launcher {
    /// Local response normalisation over the channels. Overwrites y.
    ///
    /// # Safety
    ///
    /// x and y: (rows, channels) elements.
    pub unsafe fn lrn_forward(
        &self,
        element: Element,
        shape: Rows,
        x: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let work = tiles(shape);
        let (pixels, channels) = (shape.rows as u64, shape.channels as u32);
        launch!(self, lrn_forward[element], work; x, y, pixels, channels)
    }

    /// Its gradient; where `masked`, 0 where x is not positive. Overwrites dx.
    ///
    /// # Safety
    ///
    /// x, dy and dx: (rows, channels) elements.
    pub unsafe fn lrn_backward(
        &self,
        element: Element,
        shape: Rows,
        x: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        masked: bool,
    ) -> Result<()> {
        let work = tiles(shape);
        let (pixels, channels, masked) = (shape.rows as u64, shape.channels as u32, u32::from(masked));
        launch!(self, lrn_backward[element], work; x, dy, dx, pixels, channels, masked)
    }

    /// Posteriors, losses and ranks of the true classes. Overwrites all three.
    ///
    /// # Safety
    ///
    /// x: (batch, classes) elements; y: (batch, classes) f32; labels and ranks: (batch) u32, each label below `classes`;
    /// losses: (batch) f32.
    pub unsafe fn softmax_cross_entropy_forward(
        &self,
        element: Element,
        batch: usize,
        classes: usize,
        x: DevicePtr,
        labels: DevicePtr,
        [y, losses, ranks]: [DevicePtr; 3],
    ) -> Result<()> {
        let work = Work::Blocks(batch);
        let (batch, classes) = (batch as u64, classes as u32);
        launch!(self, softmax_cross_entropy_forward[element], work; x, labels, y, losses, ranks, batch, classes)
    }

    /// dx = y minus 1 at the true class: the gradient of the sum of the losses. Overwrites dx.
    ///
    /// # Safety
    ///
    /// y: (batch, classes) f32; dx: (batch, classes) elements, elsewhere unless they are f32; labels: (batch) u32.
    pub unsafe fn softmax_cross_entropy_backward(
        &self,
        element: Element,
        batch: usize,
        classes: usize,
        y: DevicePtr,
        labels: DevicePtr,
        dx: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(batch * classes);
        let (batch, classes) = (batch as u64, classes as u32);
        launch!(self, softmax_cross_entropy_backward[element], work; y, labels, dx, batch, classes)
    }
}

/// The tiles of the LRN: TILE in lrn.cu.
fn tiles(shape: Rows) -> Work {
    Work::Blocks((shape.rows * shape.channels).div_ceil(4 * BLOCK as usize))
}
