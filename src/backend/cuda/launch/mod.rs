//! Launches of our kernels: one function for each kernel of `kernels/`, of the same name, with what it reads and writes.
//!
//! The files are the families of kernels. Everything is enqueued on one stream. Addresses are those of device memory;
//! `n` and other sizes are in elements.

mod channels;
mod element;
mod elementwise;
mod images;
mod sums;
mod update;

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr, DriverError, LaunchConfig, result};

pub use self::element::Element;
pub use self::elementwise::Dropout;
pub use self::sums::{BatchNorm, Rows, column_sum_bytes};
pub use self::update::{SLOTS, UpdateFactors};
use super::device::{DeviceFacts, failed};
use super::dnn::DevicePtr;
use super::kernels::Functions;
use super::libraries::Libraries;
use crate::error::Result;
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

/// The kernels of one device, launched on one stream.
pub struct Launcher {
    stream: Arc<CudaStream>,
    functions: Arc<Functions>,
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
/// of the type that the kernel has. `kernel[element]` for one that exists for several types of elements.
macro_rules! launch {
    ($launcher:expr, $kernel:ident $([$element:expr])?, $work:expr; $($argument:ident),+ $(,)?) => {{
        let launcher: &Launcher = $launcher;
        let function = &launcher.functions.$kernel;
        $(let function = function.of($element);)?
        let mut launch = launcher.stream.launch_builder(function);
        $(launch.arg(&$argument);)+
        // SAFETY: the arguments are those of the kernel, in its order; the caller vouches for the memory.
        let done = unsafe { launch.launch(launcher.shape($work)) };
        done.map(drop).map_err(|why| failed(&launcher.device, concat!("launching ", stringify!($kernel)), &why))
    }};
}
use launch;

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
            functions: Arc::new(Functions::load(stream.context(), libraries, facts)?),
            blocks: facts.multiprocessors.max(1) * BLOCKS_PER_MULTIPROCESSOR,
            device: format!("cuda:{}", facts.ordinal),
        })
    }

    /// The same kernels on another stream of the device.
    #[must_use]
    pub fn on(&self, stream: &Arc<CudaStream>) -> Self {
        Self {
            stream: Arc::clone(stream),
            functions: Arc::clone(&self.functions),
            blocks: self.blocks,
            device: self.device.clone(),
        }
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

    /// Copies `bytes` bytes on the device.
    ///
    /// # Safety
    ///
    /// Both places must be allocated and apart.
    pub unsafe fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller vouches for the memory.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        self.check("copying on the device", done)
    }

    /// A driver's answer with the device's name.
    pub(super) fn check<T>(&self, doing: &str, answer: Result<T, DriverError>) -> Result<T> {
        answer.map_err(|why| failed(&self.device, doing, &why))
    }
}
