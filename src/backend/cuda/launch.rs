//! Launches of our kernels: one function for each kernel of `kernels/`, of the same name, with what it reads and writes.
//!
//! Everything is enqueued on one stream. Addresses are those of device memory; `n` and other sizes are in elements.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg, result};

use super::device::{DeviceFacts, failed};
use super::dnn::DevicePtr;
use super::kernels::Functions;
use super::libraries::Libraries;
use crate::data::preprocess::{ChannelOrder, Preprocess};
use crate::error::{Error, Result};
use crate::plan;

/// Threads of a block: BLOCK in common.cuh.
const BLOCK: u32 = 256;

/// Blocks in flight per multiprocessor; kernels stride over the rest.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 8;

/// Channels of the input image as the first convolution reads them: INPUT_CHANNELS in finish_input.cu.
pub const INPUT_CHANNELS: usize = 8;

/// What a step reads from device memory, so that a captured graph can be replayed with other values: the twin of
/// StepParams in common.cuh.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct DeviceStepParams {
    seed: u64,
    step: u64,
    position: u64,
    learning_rate: f32,
    reserved: u32,
}

// SAFETY: plain numbers, no padding.
unsafe impl DeviceRepr for DeviceStepParams {}

impl From<&plan::StepParams> for DeviceStepParams {
    fn from(params: &plan::StepParams) -> Self {
        Self {
            seed: params.seed,
            step: params.step,
            position: params.position,
            learning_rate: params.learning_rate,
            reserved: 0,
        }
    }
}

impl DeviceStepParams {
    /// The struct as it lies in memory.
    pub(super) fn words(self) -> [u64; 4] {
        let rate = u64::from(self.learning_rate.to_bits());
        [
            self.seed,
            self.step,
            self.position,
            u64::from(self.reserved) << 32 | rate,
        ]
    }
}

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

/// Buffers that one tree addition can read.
pub const SLOTS: usize = 16;

/// The twin of Slots in tree_add.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Slots([DevicePtr; SLOTS]);

// SAFETY: plain addresses, no padding.
unsafe impl DeviceRepr for Slots {}

/// The kernels of one device, launched on one stream.
pub struct Launcher {
    stream: Arc<CudaStream>,
    functions: Functions,
    /// Most blocks of a launch.
    blocks: u32,
    device: String,
}

/// How many blocks a launch gets.
enum Work {
    /// One thread for each of this many items.
    Items(usize),
    /// One block for each of this many items.
    Blocks(usize),
}

/// `launch!(launcher, kernel, work; arguments)`: the arguments in the order of the kernel's parameters, each a variable
/// of the type that the kernel has.
macro_rules! launch {
    ($launcher:expr, $kernel:ident, $work:expr; $($argument:ident),+ $(,)?) => {{
        let launcher: &Launcher = $launcher;
        let mut launch = launcher.stream.launch_builder(&launcher.functions.$kernel);
        $(launch.arg(&$argument);)+
        // SAFETY: the arguments are those of the kernel, in its order; the caller vouches for the memory.
        let done = unsafe { launch.launch(launcher.shape($work)) };
        done.map(drop).map_err(|why| failed(&launcher.device, concat!("launching ", stringify!($kernel)), &why))
    }};
}

/// The pieces that a sum over rows is cut into: a function of the shape alone, as columns.cuh asks.
fn slices(rows: usize, channels: usize) -> u32 {
    let groups = channels.div_ceil(32).max(1);
    (1024 / groups).clamp(1, rows.div_ceil(64).max(1)) as u32
}

/// Bytes of scratch that `sums` sums over rows of `channels` channels need.
pub fn column_sum_bytes(rows: usize, channels: usize, sums: usize) -> usize {
    sums * slices(rows, channels) as usize * channels * size_of::<f64>()
}

/// A tensor (N, H, W, C), or what is treated as one.
#[derive(Debug, Clone, Copy)]
pub struct Nhwc {
    /// Images.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Nhwc {
    fn len(self) -> usize {
        self.pixels() * self.c
    }

    fn pixels(self) -> usize {
        self.n * self.h * self.w
    }
}

impl Launcher {
    /// Loads every kernel on the stream's device.
    pub fn new(stream: &Arc<CudaStream>, libraries: &Libraries, facts: &DeviceFacts) -> Result<Self> {
        Ok(Self {
            stream: Arc::clone(stream),
            functions: Functions::load(stream.context(), libraries, facts)?,
            blocks: facts.multiprocessors.max(1) * BLOCKS_PER_MULTIPROCESSOR,
            device: format!("cuda:{}", facts.ordinal),
        })
    }

    /// The stream that everything is enqueued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    fn shape(&self, work: Work) -> LaunchConfig {
        let wanted = match work {
            Work::Items(items) => items.div_ceil(BLOCK as usize),
            Work::Blocks(blocks) => blocks,
        };
        let blocks = wanted.clamp(1, self.blocks as usize) as u32;
        LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (BLOCK, 1, 1),
            shared_mem_bytes: 0,
        }
    }

    /// y = max(x, 0); NaN passes. y may be x.
    ///
    /// # Safety
    ///
    /// x and y: n f32.
    pub unsafe fn relu_forward(&self, x: DevicePtr, y: DevicePtr, n: usize) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let n = n as u64;
        launch!(self, relu_forward, work; x, y, n)
    }

    /// dx = y > 0 ? dy : 0. dx may be dy.
    ///
    /// # Safety
    ///
    /// y, dy and dx: n f32.
    pub unsafe fn relu_backward(&self, y: DevicePtr, dy: DevicePtr, dx: DevicePtr, n: usize) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let n = n as u64;
        launch!(self, relu_backward, work; y, dy, dx, n)
    }

    /// db = sum of dy over its rows, in a fixed order. Overwrites scratch and db.
    ///
    /// # Safety
    ///
    /// dy: (rows, channels) f32; db: (channels) f32; scratch: [`column_sum_bytes`]`(rows, channels, 1)`, 8-aligned.
    pub unsafe fn bias_gradient(
        &self,
        dy: DevicePtr,
        rows: usize,
        channels: usize,
        scratch: DevicePtr,
        db: DevicePtr,
    ) -> Result<()> {
        let slices = slices(rows, channels);
        let groups = channels.div_ceil(32);
        let (rows, channels) = (rows as u64, channels as u32);
        let parts = Work::Blocks(groups * slices as usize);
        launch!(self, bias_gradient_parts, parts; dy, rows, channels, slices, scratch)?;
        launch!(self, bias_gradient, Work::Blocks(groups); scratch, channels, slices, db)
    }

    /// y = the maximum of each 2x2 window; choices: which element it is. Overwrites both.
    ///
    /// # Safety
    ///
    /// `x`: that shape, f32; y: half of it in both directions, f32; choices: as many u8.
    pub unsafe fn max_pool_forward(
        &self,
        shape: Nhwc,
        x: DevicePtr,
        y: DevicePtr,
        choices: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.len() / 16);
        let batch = shape.n as u64;
        let [height, width, channels] = [shape.h, shape.w, shape.c].map(|size| size as u32);
        launch!(self, max_pool_forward, work; x, y, choices, batch, height, width, channels)
    }

    /// dx = dy at the chosen elements, else 0; where y is given, 0 also where y is not positive. Overwrites dx.
    ///
    /// # Safety
    ///
    /// As for [`Launcher::max_pool_forward`]; dx: the shape of x, dy and y: that of the pooled value.
    pub unsafe fn max_pool_backward(
        &self,
        shape: Nhwc,
        dy: DevicePtr,
        choices: DevicePtr,
        y: Option<DevicePtr>,
        dx: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.len().div_ceil(16));
        let y = y.unwrap_or(0);
        let batch = shape.n as u64;
        let [height, width, channels] = [shape.h, shape.w, shape.c].map(|size| size as u32);
        launch!(self, max_pool_backward, work; dy, choices, y, dx, batch, height, width, channels)
    }

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

    /// y = 0 where dropped, else x / (1 - p). Overwrites y.
    ///
    /// # Safety
    ///
    /// x and y: that shape, f32; params: a [`DeviceStepParams`].
    pub unsafe fn dropout_forward(
        &self,
        shape: Nhwc,
        p: f32,
        layer: u16,
        params: DevicePtr,
        x: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.len().div_ceil(4));
        let (batch, plane, channels) = (shape.n as u64, (shape.h * shape.w) as u32, shape.c as u32);
        let (layer, threshold, scale) = (u32::from(layer), threshold(p), scale(p));
        launch!(self, dropout_forward, work; x, y, batch, channels, plane, layer, threshold, scale, params)
    }

    /// dx = 0 where dropped, else dy / (1 - p). Overwrites dx.
    ///
    /// # Safety
    ///
    /// dy and dx: that shape, f32; params: a [`DeviceStepParams`].
    pub unsafe fn dropout_backward(
        &self,
        shape: Nhwc,
        p: f32,
        layer: u16,
        params: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.len().div_ceil(4));
        let (batch, plane, channels) = (shape.n as u64, (shape.h * shape.w) as u32, shape.c as u32);
        let (layer, threshold, scale) = (u32::from(layer), threshold(p), scale(p));
        launch!(self, dropout_backward, work; dy, dx, batch, channels, plane, layer, threshold, scale, params)
    }

    /// dx = y > 0 ? dy / (1 - p) : 0: the mask of a ReLU before the dropout, too. Overwrites dx.
    ///
    /// # Safety
    ///
    /// y, dy and dx: n f32.
    pub unsafe fn dropout_backward_masked(
        &self,
        p: f32,
        y: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        n: usize,
    ) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let (n, scale) = (n as u64, scale(p));
        launch!(self, dropout_backward_masked, work; y, dy, dx, n, scale)
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

    /// weights, momentum: one step of the update rule in place.
    ///
    /// # Safety
    ///
    /// weights, momentum and gradient: n f32; params: a [`DeviceStepParams`] whose rate is that of the array.
    pub unsafe fn update_parameters(
        &self,
        [weights, momentum, gradient]: [DevicePtr; 3],
        n: usize,
        params: DevicePtr,
        factors: UpdateFactors,
    ) -> Result<()> {
        let work = Work::Items(n.div_ceil(4));
        let n = n as u64;
        let UpdateFactors {
            rate,
            decay,
            momentum: factor,
            batch,
        } = factors;
        launch!(self, update_parameters, work; weights, momentum, gradient, n, params, rate, decay, factor, batch)
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

    /// *sum += the fold of a tensor stored with `pitch` channels, of which the shape's count, by logical index.
    ///
    /// # Safety
    ///
    /// values: (N, H, W, pitch) f32; sum: a u64.
    pub unsafe fn fold_nhwc(
        &self,
        shape: Nhwc,
        pitch: usize,
        values: DevicePtr,
        sum: DevicePtr,
    ) -> Result<()> {
        let work = Work::Items(shape.len());
        let (batch, plane) = (shape.n as u64, (shape.h * shape.w) as u32);
        let (channels, pitch, first) = (shape.c as u32, pitch as u32, 0u64);
        launch!(self, fold_nhwc, work; values, batch, plane, channels, pitch, first, sum)
    }

    /// Pixels to the network's input, (N, H, W, [`INPUT_CHANNELS`]). Overwrites out, the padding with 0.
    ///
    /// # Safety
    ///
    /// pixels: (N, H, W, 3) u8; flips: (N) u8; colours: (N, 3) f32; out: as said.
    pub unsafe fn finish_input(
        &self,
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
        launch!(self, finish_input, work; pixels, flips, colours, out, batch, height, width, map)
    }

    /// to (N, H, W, pitch) = from (N, C, H, W), the channels from C to pitch 0. Overwrites to.
    ///
    /// # Safety
    ///
    /// Both f32 of those shapes.
    pub unsafe fn nhwc_from_nchw(
        &self,
        shape: Nhwc,
        pitch: usize,
        from: DevicePtr,
        to: DevicePtr,
    ) -> Result<()> {
        let work = Work::Blocks(tiles(shape, pitch));
        let (batch, plane) = (shape.n as u64, (shape.h * shape.w) as u32);
        let (channels, pitch) = (shape.c as u32, pitch as u32);
        launch!(self, nhwc_from_nchw, work; from, to, batch, channels, plane, pitch)
    }

    /// to (N, C, H, W) = from (N, H, W, pitch), of which the first C channels count. Overwrites to.
    ///
    /// # Safety
    ///
    /// Both f32 of those shapes.
    pub unsafe fn nchw_from_nhwc(
        &self,
        shape: Nhwc,
        pitch: usize,
        from: DevicePtr,
        to: DevicePtr,
    ) -> Result<()> {
        let work = Work::Blocks(tiles(shape, shape.c));
        let (batch, plane) = (shape.n as u64, (shape.h * shape.w) as u32);
        let (channels, pitch) = (shape.c as u32, pitch as u32);
        launch!(self, nchw_from_nhwc, work; from, to, batch, channels, plane, pitch)
    }

    /// The mean of every class's score map: y (N, C) of x (N, H, W, C). Overwrites y.
    ///
    /// # Safety
    ///
    /// Both f32 of those shapes.
    pub unsafe fn score_map_average(&self, shape: Nhwc, x: DevicePtr, y: DevicePtr) -> Result<()> {
        let work = Work::Items(shape.n * shape.c);
        let (batch, plane, classes) = (shape.n as u64, (shape.h * shape.w) as u32, shape.c as u32);
        launch!(self, score_map_average, work; x, y, batch, plane, classes)
    }

    /// y = x rounded to bf16, nearest, ties to even. Overwrites y.
    ///
    /// # Safety
    ///
    /// x: n f32; y: n bf16.
    pub unsafe fn fp32_to_bf16(&self, x: DevicePtr, y: DevicePtr, n: usize) -> Result<()> {
        let work = Work::Items(n.div_ceil(8));
        let n = n as u64;
        launch!(self, fp32_to_bf16, work; x, y, n)
    }

    /// y = x, exactly. Overwrites y.
    ///
    /// # Safety
    ///
    /// x: n bf16; y: n f32.
    pub unsafe fn bf16_to_fp32(&self, x: DevicePtr, y: DevicePtr, n: usize) -> Result<()> {
        let work = Work::Items(n.div_ceil(8));
        let n = n as u64;
        launch!(self, bf16_to_fp32, work; x, y, n)
    }

    /// Batch norm of a micro-batch by its own statistics: y, the mean and 1 / deviation for the backward pass, and the
    /// statistics for the leaf. Overwrites all of them.
    ///
    /// # Safety
    ///
    /// x and y: (rows, channels) f32; everything else (channels) f32; scratch:
    /// [`column_sum_bytes`]`(rows, channels, 1)`, 8-aligned.
    pub unsafe fn batch_norm_forward(
        &self,
        shape: Rows,
        norm: BatchNorm,
        [mean_out, variance_out]: [DevicePtr; 2],
        scratch: DevicePtr,
        relu: bool,
    ) -> Result<()> {
        let BatchNorm { x, mean, inverse, .. } = norm;
        let slices = slices(shape.rows, shape.channels);
        let groups = shape.channels.div_ceil(32);
        let parts = || Work::Blocks(groups * slices as usize);
        let (rows, channels) = (shape.rows as u64, shape.channels as u32);
        launch!(self, batch_norm_mean_parts, parts(); x, rows, channels, slices, scratch)?;
        launch!(self, batch_norm_mean, Work::Blocks(groups); scratch, rows, channels, slices, mean, mean_out)?;
        launch!(self, batch_norm_variance_parts, parts(); x, mean, rows, channels, slices, scratch)?;
        launch!(
            self, batch_norm_variance, Work::Blocks(groups);
            scratch, rows, channels, slices, inverse, variance_out
        )?;
        self.normalise(shape, norm, relu)
    }

    /// Batch norm by the running statistics. Overwrites y; mean and inverse are scratch.
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
        let BatchNorm { mean, inverse, .. } = norm;
        let work = Work::Items(shape.channels);
        let channels = shape.channels as u32;
        launch!(
            self, batch_norm_evaluation, work;
            running_mean, running_variance, channels, mean, inverse
        )?;
        self.normalise(shape, norm, relu)
    }

    fn normalise(&self, shape: Rows, norm: BatchNorm, relu: bool) -> Result<()> {
        let BatchNorm {
            x,
            mean,
            inverse,
            gamma,
            beta,
            y,
        } = norm;
        let work = Work::Items((shape.rows * shape.channels).div_ceil(4));
        let (rows, channels, relu) = (shape.rows as u64, shape.channels as u32, u32::from(relu));
        launch!(self, batch_norm_forward, work; x, mean, inverse, gamma, beta, y, rows, channels, relu)
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
            x,
            mean,
            inverse,
            gamma,
            ..
        } = norm;
        let slices = slices(shape.rows, shape.channels);
        let groups = shape.channels.div_ceil(32);
        let level = scratch + column_sum_bytes(shape.rows, shape.channels, 2) as u64;
        let slope = level + (shape.channels * size_of::<f32>()) as u64;
        let parts = Work::Blocks(groups * slices as usize);
        let work = Work::Items((shape.rows * shape.channels).div_ceil(4));
        let (rows, channels) = (shape.rows as u64, shape.channels as u32);
        launch!(self, batch_norm_backward_parts, parts; x, dy, mean, rows, channels, slices, scratch)?;
        launch!(
            self, batch_norm_backward_sums, Work::Blocks(groups);
            scratch, inverse, rows, channels, slices, dgamma, dbeta, level, slope
        )?;
        match dx {
            None => Ok(()),
            Some(dx) => launch!(
                self, batch_norm_backward, work;
                x, dy, mean, inverse, gamma, level, slope, dx, rows, channels
            ),
        }
    }

    /// Waits until everything that was enqueued is done.
    pub fn synchronize(&self) -> Result<()> {
        self.check("waiting for the stream", self.stream.synchronize())
    }

    /// Clears `bytes` bytes.
    ///
    /// # Safety
    ///
    /// They must be allocated.
    pub unsafe fn clear(&self, to: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller vouches for the memory.
        let done = unsafe { result::memset_d8_async(to, 0, bytes, self.stream.cu_stream()) };
        self.check("clearing memory", done)
    }

    /// A driver's answer with the device's name.
    pub(super) fn check<T>(&self, doing: &str, answer: Result<T, DriverError>) -> Result<T> {
        answer.map_err(|why| failed(&self.device, doing, &why))
    }
}

/// Rows and channels of a matrix: pixels of all images, channels innermost.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// N * H * W.
    pub rows: usize,
    /// C.
    pub channels: usize,
}

/// The tensors of batch norm.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm {
    /// (rows, channels).
    pub x: DevicePtr,
    /// (channels): kept for the backward pass.
    pub mean: DevicePtr,
    /// (channels): 1 / sqrt(variance + epsilon), kept for the backward pass.
    pub inverse: DevicePtr,
    /// (channels).
    pub gamma: DevicePtr,
    /// (channels).
    pub beta: DevicePtr,
    /// (rows, channels).
    pub y: DevicePtr,
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

/// Tiles of 32 channels by 32 pixels that cover a tensor.
fn tiles(shape: Nhwc, channels: usize) -> usize {
    shape.n * channels.div_ceil(32) * (shape.h * shape.w).div_ceil(32)
}

/// `floor(p * 2^32)`: draws below it drop.
fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0).floor() as u32
}

fn scale(p: f32) -> f32 {
    1.0 / (1.0 - p)
}
