//! Over the pixels of images: input finishing, pooling, layouts, windows, means.

use cudarc::driver::{DeviceRepr, PushKernelArg};

use super::{DevicePtr, Element, Launcher, Nhwc, Work, failed, launch};
use crate::data::preprocess::{ChannelOrder, Preprocess};
use crate::error::Result;

/// The twin of InputMap in finish_input.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct InputMap {
    scale: [f32; 3],
    shift: [f32; 3],
    reversed: u32,
}

// SAFETY: plain numbers, no padding.
unsafe impl DeviceRepr for InputMap {}

impl Launcher {
    /// Pixels to the network's input, (N, H, W, [`INPUT_CHANNELS`](super::INPUT_CHANNELS)) elements. Overwrites out, the
    /// padding with 0.
    ///
    /// # Safety
    ///
    /// pixels: (N, H, W, 3) u8; flips: (N) u8; colours: (N, 3) f32; out: as said.
    pub unsafe fn finish_input(
        &self,
        element: Element,
        shape: Nhwc,
        preprocess: &Preprocess,
        [pixels, flips, colours]: [DevicePtr; 3],
        out: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.pixels());
        let map = InputMap {
            scale: preprocess.scale,
            shift: preprocess.shift,
            reversed: u32::from(preprocess.channels == ChannelOrder::Bgr),
        };
        let (batch, height, width) = (shape.n as u64, shape.h as u32, shape.w as u32);
        launch!(self, finish_input[element], work; pixels, flips, colours, out, batch, height, width, map)
    }

    /// y = the maximum of each 2x2 window; choices: which element it is. Overwrites both.
    ///
    /// # Safety
    ///
    /// `x`: that shape, elements; y: half of it in both directions, elements; choices: as many u8.
    pub unsafe fn max_pool_forward(
        &self,
        element: Element,
        shape: Nhwc,
        x: DevicePtr,
        y: DevicePtr,
        choices: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items((shape.len() / 4).div_ceil(element.width()));
        let batch = shape.n as u64;
        let [height, width, channels] = [shape.h, shape.w, shape.c].map(|size| size as u32);
        launch!(self, max_pool_forward[element], work; x, y, choices, batch, height, width, channels)
    }

    /// dx = dy at the chosen elements, else 0; where y is given, 0 also where y is not positive. Overwrites dx.
    ///
    /// # Safety
    ///
    /// As for [`Launcher::max_pool_forward`]; dx: the shape of x, dy and y: that of the pooled value.
    pub unsafe fn max_pool_backward(
        &self,
        element: Element,
        shape: Nhwc,
        dy: DevicePtr,
        choices: DevicePtr,
        y: Option<DevicePtr>,
        dx: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items((shape.len() / 4).div_ceil(element.width()));
        let y = y.unwrap_or(0);
        let batch = shape.n as u64;
        let [height, width, channels] = [shape.h, shape.w, shape.c].map(|size| size as u32);
        launch!(self, max_pool_backward[element], work; dy, choices, y, dx, batch, height, width, channels)
    }

    /// to (N, H, W, pitch) = from (N, C, H, W), the channels from C to pitch 0. Overwrites to.
    ///
    /// # Safety
    ///
    /// Both of those shapes, from the first type of elements to the second.
    pub unsafe fn nhwc_from_nchw(
        &self,
        elements: [Element; 2],
        shape: Nhwc,
        pitch: usize,
        from: DevicePtr,
        to: DevicePtr,
    ) -> Result<()> {
        let work = Work::Blocks(tiles(shape, pitch));
        let (batch, plane) = (shape.n as u64, (shape.h * shape.w) as u32);
        let (channels, pitch) = (shape.c as u32, pitch as u32);
        launch!(self, nhwc_from_nchw[elements], work; from, to, batch, channels, plane, pitch)
    }

    /// to (N, C, H, W) = from (N, H, W, pitch), of which the first C channels count. Overwrites to.
    ///
    /// # Safety
    ///
    /// Both of those shapes, from the first type of elements to the second.
    pub unsafe fn nchw_from_nhwc(
        &self,
        elements: [Element; 2],
        shape: Nhwc,
        pitch: usize,
        from: DevicePtr,
        to: DevicePtr,
    ) -> Result<()> {
        let work = Work::Blocks(tiles(shape, shape.c));
        let (batch, plane) = (shape.n as u64, (shape.h * shape.w) as u32);
        let (channels, pitch) = (shape.c as u32, pitch as u32);
        launch!(self, nchw_from_nhwc[elements], work; from, to, batch, channels, plane, pitch)
    }

    /// Every square window of a map as a row: y (N * H' * W', C * side * side) of x (N, H, W, C). Overwrites y.
    ///
    /// # Safety
    ///
    /// Both of those shapes, elements; H' = H - side + 1 and W' = W - side + 1.
    pub unsafe fn windows(
        &self,
        element: Element,
        shape: Nhwc,
        side: usize,
        x: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let count = shape.n * (shape.h + 1 - side) * (shape.w + 1 - side);
        let work = Work::Items(count * shape.c * side * side);
        let batch = shape.n as u64;
        let [height, width, channels, side] = [shape.h, shape.w, shape.c, side].map(|size| size as u32);
        launch!(self, windows[element], work; x, y, batch, height, width, channels, side)
    }

    /// Means over the parts of a map, whatever its size: y (N, side, side, C) of x (N, H, W, C). Overwrites y.
    ///
    /// # Safety
    ///
    /// Both of those shapes, elements; no side is 0.
    pub unsafe fn average_pool(
        &self,
        element: Element,
        shape: Nhwc,
        side: usize,
        x: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.n * side * side * shape.c);
        let batch = shape.n as u64;
        let [height, width, channels, side] = [shape.h, shape.w, shape.c, side].map(|size| size as u32);
        launch!(self, average_pool[element], work; x, y, batch, height, width, channels, side)
    }
}

/// Tiles of 32 channels by 32 pixels that cover a tensor.
fn tiles(shape: Nhwc, channels: usize) -> usize {
    shape.n * channels.div_ceil(32) * (shape.h * shape.w).div_ceil(32)
}
