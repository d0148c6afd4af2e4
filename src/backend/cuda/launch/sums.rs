//! Sums over the rows of a matrix, in a fixed order: bias gradients and batch norm.

use cudarc::driver::PushKernelArg;

use super::{DevicePtr, Element, Launcher, Work, failed, launch};
use crate::error::Result;

/// The pieces that a sum over rows is cut into: a function of the shape alone, as columns.cuh asks.
fn slices(rows: usize, channels: usize) -> u32 {
    let groups = channels.div_ceil(32).max(1);
    (1024 / groups).clamp(1, rows.div_ceil(64).max(1)) as u32
}

/// Bytes of scratch that `sums` sums over rows of `channels` channels need.
pub fn column_sum_bytes(rows: usize, channels: usize, sums: usize) -> usize {
    sums * slices(rows, channels) as usize * channels * size_of::<f64>()
}

/// Rows and channels of a matrix: pixels of all images, channels innermost.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// N * H * W.
    pub rows: usize,
    /// C.
    pub channels: usize,
}

/// The tensors of batch norm; those over channels alone are f32.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm {
    /// What x and y consist of, and their gradients.
    pub element: Element,
    /// (rows, channels).
    pub x: DevicePtr,
    /// (channels): kept for the backward pass.
    pub mean: DevicePtr,
    /// (channels): what rounding takes from the mean, kept for the backward pass.
    pub rest: DevicePtr,
    /// (channels): 1 / sqrt(variance + epsilon), kept for the backward pass.
    pub inverse: DevicePtr,
    /// (channels).
    pub gamma: DevicePtr,
    /// (channels).
    pub beta: DevicePtr,
    /// (rows, channels).
    pub y: DevicePtr,
}

impl Launcher {
    /// db = sum of dy over its rows, in a fixed order. Overwrites scratch and db.
    ///
    /// # Safety
    ///
    /// dy: (rows, channels) elements; db: (channels) f32; scratch: [`column_sum_bytes`]`(rows, channels, 1)`, 8-aligned.
    pub unsafe fn bias_gradient(
        &self,
        element: Element,
        shape: Rows,
        dy: DevicePtr,
        scratch: DevicePtr,
        db: DevicePtr,
    ) -> Result<()> {
        let slices = slices(shape.rows, shape.channels);
        let groups = shape.channels.div_ceil(32);
        let (rows, channels) = (shape.rows as u64, shape.channels as u32);
        let parts = Work::Blocks(groups * slices as usize);
        launch!(self, bias_gradient_parts[element], parts; dy, rows, channels, slices, scratch)?;
        launch!(self, bias_gradient, Work::Blocks(groups); scratch, channels, slices, db)
    }

    /// Batch norm of a micro-batch by its own statistics: y, the mean and 1 / deviation for the backward pass, and the
    /// statistics for the leaf. Overwrites all of them.
    ///
    /// # Safety
    ///
    /// x and y: (rows, channels) elements; everything else (channels) f32; scratch:
    /// [`column_sum_bytes`]`(rows, channels, 1)`, 8-aligned.
    pub unsafe fn batch_norm_forward(
        &self,
        shape: Rows,
        norm: BatchNorm,
        [mean_out, variance_out]: [DevicePtr; 2],
        scratch: DevicePtr,
        relu: bool,
    ) -> Result<()> {
        let BatchNorm {
            element,
            x,
            mean,
            rest,
            inverse,
            ..
        } = norm;
        let slices = slices(shape.rows, shape.channels);
        let groups = shape.channels.div_ceil(32);
        let parts = || Work::Blocks(groups * slices as usize);
        let (rows, channels) = (shape.rows as u64, shape.channels as u32);
        launch!(self, batch_norm_mean_parts[element], parts(); x, rows, channels, slices, scratch)?;
        launch!(self, batch_norm_mean, Work::Blocks(groups); scratch, rows, channels, slices, mean, rest, mean_out)?;
        launch!(self, batch_norm_variance_parts[element], parts(); x, mean, rows, channels, slices, scratch)?;
        launch!(
            self, batch_norm_variance, Work::Blocks(groups);
            scratch, rest, rows, channels, slices, inverse, variance_out
        )?;
        self.normalise(shape, norm, relu)
    }

    /// Batch norm by the running statistics. Overwrites y; mean, rest and inverse are scratch.
    ///
    /// # Safety
    ///
    /// As for [`Launcher::batch_norm_forward`].
    pub unsafe fn batch_norm_evaluation(
        &self,
        shape: Rows,
        norm: BatchNorm,
        [running_mean, running_variance]: [DevicePtr; 2],
        relu: bool,
    ) -> Result<()> {
        let BatchNorm {
            mean, rest, inverse, ..
        } = norm;
        let work = Work::Items(shape.channels);
        let channels = shape.channels as u32;
        launch!(
            self, batch_norm_evaluation, work;
            running_mean, running_variance, channels, mean, rest, inverse
        )?;
        self.normalise(shape, norm, relu)
    }

    fn normalise(&self, shape: Rows, norm: BatchNorm, relu: bool) -> Result<()> {
        let BatchNorm {
            element,
            x,
            mean,
            rest,
            inverse,
            gamma,
            beta,
            y,
        } = norm;
        let work = Work::Items((shape.rows * shape.channels).div_ceil(element.width()));
        let (rows, channels, relu) = (shape.rows as u64, shape.channels as u32, u32::from(relu));
        launch!(
            self, batch_norm_forward[element], work;
            x, mean, rest, inverse, gamma, beta, y, rows, channels, relu
        )
    }

    /// The gradients of batch norm. Overwrites dgamma, dbeta and, where it is given, dx.
    ///
    /// # Safety
    ///
    /// As for [`Launcher::batch_norm_forward`]; scratch: [`column_sum_bytes`]`(rows, channels, 2)` and 2 * channels f32.
    pub unsafe fn batch_norm_backward(
        &self,
        shape: Rows,
        norm: BatchNorm,
        dy: DevicePtr,
        [dgamma, dbeta]: [DevicePtr; 2],
        dx: Option<DevicePtr>,
        scratch: DevicePtr,
    ) -> Result<()> {
        let BatchNorm {
            element,
            x,
            mean,
            rest,
            inverse,
            gamma,
            ..
        } = norm;
        let slices = slices(shape.rows, shape.channels);
        let groups = shape.channels.div_ceil(32);
        let level = scratch + column_sum_bytes(shape.rows, shape.channels, 2) as u64;
        let slope = level + (shape.channels * size_of::<f32>()) as u64;
        let parts = Work::Blocks(groups * slices as usize);
        let work = Work::Items((shape.rows * shape.channels).div_ceil(element.width()));
        let (rows, channels) = (shape.rows as u64, shape.channels as u32);
        launch!(self, batch_norm_backward_parts[element], parts; x, dy, mean, rows, channels, slices, scratch)?;
        launch!(
            self, batch_norm_backward_sums, Work::Blocks(groups);
            scratch, rest, inverse, rows, channels, slices, dgamma, dbeta, level, slope
        )?;
        match dx {
            None => Ok(()),
            Some(dx) => launch!(
                self, batch_norm_backward[element], work;
                x, dy, mean, inverse, gamma, level, slope, dx, rows, channels
            ),
        }
    }
}
