//! Element by element: ReLU, dropout, folds, conversions.

use cudarc::driver::PushKernelArg;

use super::{DevicePtr, Element, Launcher, Nhwc, Work, failed, launch};
use crate::error::Result;

/// What says which elements a dropout drops.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// The share that is dropped.
    pub p: f32,
    /// The layer's number among the random draws.
    pub layer: u16,
    /// A [`DeviceStepParams`](super::DeviceStepParams): seed and position.
    pub params: DevicePtr,
}

impl Launcher {
    /// y = max(x, 0); NaN passes. y may be x.
    ///
    /// # Safety
    ///
    /// x and y: n elements.
    pub unsafe fn relu_forward(&self, element: Element, x: DevicePtr, y: DevicePtr, n: usize) -> Result<()> {
        let work = packs(element, n);
        let n = n as u64;
        launch!(self, relu_forward[element], work; x, y, n)
    }

    /// dx = y > 0 ? dy : 0. dx may be dy.
    ///
    /// # Safety
    ///
    /// y, dy and dx: n elements.
    pub unsafe fn relu_backward(
        &self,
        element: Element,
        y: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        n: usize,
    ) -> Result<()> {
        let work = packs(element, n);
        let n = n as u64;
        launch!(self, relu_backward[element], work; y, dy, dx, n)
    }

    /// y = 0 where dropped, else x / (1 - p). Overwrites y; y may be x.
    ///
    /// # Safety
    ///
    /// x and y: that shape, elements.
    pub unsafe fn dropout_forward(
        &self,
        element: Element,
        shape: Nhwc,
        dropout: Dropout,
        x: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let work = packs(element, shape.len());
        let (batch, plane, channels) = (shape.n as u64, (shape.h * shape.w) as u32, shape.c as u32);
        let Dropout { p, layer, params } = dropout;
        let (layer, threshold, scale) = (u32::from(layer), threshold(p), scale(p));
        launch!(self, dropout_forward[element], work; x, y, batch, channels, plane, layer, threshold, scale, params)
    }

    /// dx = 0 where dropped, else dy / (1 - p). Overwrites dx; dx may be dy.
    ///
    /// # Safety
    ///
    /// dy and dx: that shape, elements.
    pub unsafe fn dropout_backward(
        &self,
        element: Element,
        shape: Nhwc,
        dropout: Dropout,
        dy: DevicePtr,
        dx: DevicePtr,
    ) -> Result<()> {
        let work = packs(element, shape.len());
        let (batch, plane, channels) = (shape.n as u64, (shape.h * shape.w) as u32, shape.c as u32);
        let Dropout { p, layer, params } = dropout;
        let (layer, threshold, scale) = (u32::from(layer), threshold(p), scale(p));
        launch!(self, dropout_backward[element], work; dy, dx, batch, channels, plane, layer, threshold, scale, params)
    }

    /// dx = y > 0 ? dy / (1 - p) : 0: the mask of a ReLU before the dropout, too. Overwrites dx.
    ///
    /// # Safety
    ///
    /// y, dy and dx: n elements.
    pub unsafe fn dropout_backward_masked(
        &self,
        element: Element,
        p: f32,
        y: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        n: usize,
    ) -> Result<()> {
        let work = packs(element, n);
        let (n, scale) = (n as u64, scale(p));
        launch!(self, dropout_backward_masked[element], work; y, dy, dx, n, scale)
    }

    /// *found = 1 where a value is not finite; else it stays.
    ///
    /// # Safety
    ///
    /// values: n f32; found: a u32 that is 0.
    pub unsafe fn is_finite(&self, values: DevicePtr, n: usize, found: DevicePtr) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let n = n as u64;
        launch!(self, is_finite, work; values, n, found)
    }

    /// *sum += the fold of values in logical order.
    ///
    /// # Safety
    ///
    /// values: n f32; sum: a u64.
    pub unsafe fn fold(&self, values: DevicePtr, n: usize, sum: DevicePtr) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let (n, first) = (n as u64, 0u64);
        launch!(self, fold, work; values, n, first, sum)
    }

    /// *sum += the fold of a tensor stored with `pitch` channels, of which the shape's count, by logical index. A bf16
    /// counts as the f32 that it stands for.
    ///
    /// # Safety
    ///
    /// values: (N, H, W, pitch) elements; sum: a u64.
    pub unsafe fn fold_nhwc(
        &self,
        element: Element,
        shape: Nhwc,
        pitch: usize,
        values: DevicePtr,
        sum: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.len());
        let (batch, plane) = (shape.n as u64, (shape.h * shape.w) as u32);
        let (channels, pitch, first) = (shape.c as u32, pitch as u32, 0u64);
        launch!(self, fold_nhwc[element], work; values, batch, plane, channels, pitch, first, sum)
    }

    /// y = x rounded to bf16, nearest, ties to even. Overwrites y.
    ///
    /// # Safety
    ///
    /// x: n f32; y: n bf16.
    pub unsafe fn fp32_to_bf16(&self, x: DevicePtr, y: DevicePtr, n: usize) -> Result<()> {
        let work = packs(Element::Bf16, n);
        let n = n as u64;
        launch!(self, fp32_to_bf16, work; x, y, n)
    }

    /// y = x, exactly. Overwrites y.
    ///
    /// # Safety
    ///
    /// x: n bf16; y: n f32.
    pub unsafe fn bf16_to_fp32(&self, x: DevicePtr, y: DevicePtr, n: usize) -> Result<()> {
        let work = packs(Element::F32, n);
        let n = n as u64;
        launch!(self, bf16_to_fp32, work; x, y, n)
    }
}

/// One thread for each pack of neighbours.
fn packs(element: Element, n: usize) -> Work {
    Work::Items(n.div_ceil(element.width()))
}

/// `floor(p * 2^32)`: draws below it drop.
fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0).floor() as u32
}

fn scale(p: f32) -> f32 {
    1.0 / (1.0 - p)
}
