//! The CUDA back end: cuDNN for convolutions, cuBLASLt for matrix products, our kernels for everything else.
//!
//! Activations lie as (N, H, W, C), channels innermost, the input image padded to 8 channels. Parameters lie in the
//! logical order of the checkpoint, (K, C, R, S) and (out, in), so that everything that treats them as one flat vector
//! (the tree, the update, folds, slices of a reduction) needs no map. A convolution makes its filter's (K, R, S, C) copy
//! in scratch and turns its filter gradient back, which costs the size of the filter; the first fully connected layer
//! turns its input instead, which is far smaller than its weights.
//!
//! Everything is enqueued on one compute stream; images arrive on a copy stream of their own (`staging`).

mod backend;
mod blas;
mod choices;
pub mod described;
pub mod device;
mod dnn;
mod graphs;
pub mod image;
mod kernels;
pub mod launch;
pub mod libraries;
mod lower;
mod memory;
pub mod nccl;
pub mod plans;
mod rates;
mod run;
pub mod simulator;
mod staging;
mod timing;
mod tune;

pub use choices::Drift;
pub use lower::CudaLowering;
pub use memory::Buffer;
pub use tune::Tuned;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaStream};
use lru::LruCache;

use self::blas::{Blas, Product, ProductPlan};
use self::choices::Choices;
use self::device::{DeviceFacts, failed};
use self::dnn::{ConvPass, ConvPlan, ConvShape, Target};
use self::graphs::Graphs;
pub use self::graphs::KEPT_GRAPHS;
use self::launch::{DeviceStepParams, Launcher};
use self::libraries::{Libraries, Library};
use self::plans::MadeFor;
pub use self::staging::HostMemory;
use self::staging::{Inbox, read, write};
use super::Precision;
use crate::error::{Error, Result};
use crate::plan::{Footprint, Lowering, Plan, Step, StepOp, StepParams};

/// How a device is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Arithmetic of products and convolutions.
    pub precision: Precision,
    /// Whether the work of a micro-batch is captured as a graph. Changes no bit.
    pub graphs: bool,
}

/// One CUDA device. Calls take turns: there is one compute stream.
pub struct Cuda {
    facts: DeviceFacts,
    class: String,
    lowering: CudaLowering,
    made_for: MadeFor,
    captures: bool,
    state: Mutex<Resources>,
}

/// What one device needs besides arenas and parameters. Fields are dropped in this order: what uses a stream before it.
struct Resources {
    /// Of every pass that was planned lately; what still uses a plan that the cache gives up holds it, too.
    convolutions: LruCache<(ConvPass, ConvShape), Arc<ConvPlan>>,
    products: LruCache<Product, ProductPlan>,
    dnn: Target,
    precision: Precision,
    choices: Choices,
    blas: Blas,
    graphs: Graphs,
    inbox: Option<Inbox>,
    /// For the plans that were prepared; grows with them.
    workspace: Buffer,
    /// A [`DeviceStepParams`], then a u64 for results.
    block: Buffer,
    /// What the device's block holds.
    params: Option<StepParams>,
    launcher: Launcher,
    copy: Arc<CudaStream>,
}

/// Plans of convolutions, and as many of products, that are kept: more than training and validation of any network need,
/// and those of the last 50 sizes or so of an evaluation of whole images, which come sorted by size.
pub const KEPT_PLANS: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Where in the small block a result is left.
const RESULT: usize = size_of::<DeviceStepParams>();

/// Bytes of the small block.
const BLOCK_BYTES: usize = RESULT + size_of::<u64>();

impl Cuda {
    /// Opens device `ordinal`. `libraries` says where NVIDIA's libraries are.
    pub fn open(ordinal: usize, libraries: &Libraries, options: Options) -> Result<Self> {
        for library in Library::ALL.into_iter().filter(|library| !library.is_optional()) {
            libraries.need(library)?;
        }
        let name = format!("cuda:{ordinal}");
        let devices = device::devices(libraries)?;
        let facts = devices.get(ordinal).cloned().ok_or_else(|| Error::Device {
            device: name.clone(),
            reason: format!("there are {} devices, counted from 0", devices.len()),
        })?;
        facts.refuse_if_too_old()?;
        let driver = |doing: &'static str| {
            let name = name.clone();
            move |why| failed(&name, doing, &why)
        };
        let context = CudaContext::new(ordinal).map_err(driver("opening"))?;
        // SAFETY: this back end orders its two streams itself (`staging`); tracking would add two events per buffer.
        unsafe { context.disable_event_tracking() };
        let compute = context.new_stream().map_err(driver("creating a stream"))?;
        let copy = context.new_stream().map_err(driver("creating a stream"))?;
        let launcher = Launcher::new(&compute, libraries, &facts)?;
        let dnn = Target::of_stream(&compute).map_err(|why| on_device(why, ordinal))?;
        let blas = Blas::new().map_err(|why| on_device(why, ordinal))?;
        let workspace = Buffer::new(&compute, "the workspace", blas::WORKSPACE_BYTES)?;
        let block = Buffer::zeroed(&compute, "the step's parameters", BLOCK_BYTES)?;
        launcher.synchronize()?;
        Ok(Self {
            class: class(&facts, libraries, options.precision)?,
            lowering: CudaLowering {
                precision: options.precision,
            },
            made_for: choices::made_for(&facts, libraries, options.precision)?,
            captures: options.graphs,
            facts,
            state: Mutex::new(Resources {
                convolutions: LruCache::new(KEPT_PLANS),
                products: LruCache::new(KEPT_PLANS),
                dnn,
                precision: options.precision,
                choices: Choices::default(),
                blas,
                graphs: Graphs::default(),
                inbox: None,
                workspace,
                block,
                params: None,
                launcher,
                copy,
            }),
        })
    }

    /// What the driver says of the device.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// Plans of convolutions and of products that are ready; at most [`KEPT_PLANS`] of each.
    pub fn kept_plans(&self) -> [usize; 2] {
        let state = self.lock();
        [state.convolutions.len(), state.products.len()]
    }

    /// Graphs that are ready, and combinations of buffers that were used once: at most [`KEPT_GRAPHS`] together.
    pub fn kept_graphs(&self) -> usize {
        self.lock().graphs.len()
    }

    /// A buffer as it lies in memory, layout, padding and gaps included: for tests that look around what a step writes.
    pub fn read_bytes(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        let mut bytes = vec![0u8; buffer.bytes()];
        // SAFETY: the whole buffer.
        unsafe { read(&self.lock().launcher, buffer.at(0), &mut bytes)? };
        Ok(bytes)
    }

    /// Overwrites a whole buffer; the counterpart of [`Cuda::read_bytes`].
    pub fn write_bytes(&self, buffer: &mut Buffer, bytes: &[u8]) -> Result<()> {
        if bytes.len() != buffer.bytes() {
            return Err(Error::invalid("bytes of a buffer", buffer.bytes(), bytes.len()));
        }
        // SAFETY: the whole buffer.
        unsafe { write(&self.lock().launcher, buffer.at(0), bytes) }
    }

    /// A loss of every sample, then a rank of every sample.
    fn read_outcomes(&self, from: dnn::DevicePtr, losses: &mut [f32], ranks: &mut [u32]) -> Result<()> {
        let state = self.lock();
        // SAFETY: the loss saves both, in this order.
        unsafe {
            read(&state.launcher, from, losses)?;
            read(&state.launcher, from + size_of_val(losses) as u64, ranks)
        }
    }

    /// Launches on the computing stream.
    fn launcher(&self) -> Launcher {
        let state = self.lock();
        state.launcher.on(state.launcher.stream())
    }

    /// A panic in another call leaves nothing half-done that this one would see: work is only enqueued.
    fn lock(&self) -> MutexGuard<'_, Resources> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layers over cuDNN and cuBLASLt name the library in their errors; users want the device, too.
fn on_device(why: Error, ordinal: usize) -> Error {
    match why {
        Error::Device { device, reason } if !device.starts_with("cuda:") => Error::Device {
            device: format!("cuda:{ordinal}"),
            reason: format!("{device}: {reason}"),
        },
        why => why,
    }
}

/// What results depend on besides the program and the recipe.
fn class(facts: &DeviceFacts, libraries: &Libraries, precision: Precision) -> Result<String> {
    let version = |library: Library| libraries.need(library).map(|found| found.version);
    let simulated = if simulator::is_installed() {
        " simulated"
    } else {
        ""
    };
    Ok(format!(
        "cuda{simulated} {} {}, {} multiprocessors, cuDNN {}, cuBLASLt {}",
        precision.name(),
        facts.name,
        facts.multiprocessors,
        version(Library::Cudnn)?,
        version(Library::CublasLt)?
    ))
}

impl Lowering for Cuda {
    fn accepts(&self, op: StepOp) -> bool {
        self.lowering.accepts(op)
    }

    fn masks(&self, op: StepOp) -> bool {
        self.lowering.masks(op)
    }

    fn footprint(&self, step: &Step) -> Footprint {
        self.lowering.footprint(step)
    }

    fn workspace_bytes(&self, plan: &Plan) -> u64 {
        self.lowering.workspace_bytes(plan)
    }

    fn weight_bytes(&self, plan: &Plan) -> u64 {
        self.lowering.weight_bytes(plan)
    }
}

impl Resources {
    /// Brings the device's block up to date.
    fn send_params(&mut self, params: &StepParams) -> Result<()> {
        if self.params.as_ref() == Some(params) {
            return Ok(());
        }
        let block = DeviceStepParams::from(params);
        self.params = None; // until it is there
        // SAFETY: the block was allocated for it.
        unsafe { write(&self.launcher, self.block.at(0), &block.words())? };
        self.params = Some(*params);
        Ok(())
    }

    /// The sum that `enqueue` adds to.
    fn fold(&self, enqueue: impl FnOnce(&Launcher, dnn::DevicePtr) -> Result<()>) -> Result<u64> {
        let sum = self.block.at(RESULT);
        let mut folded = [0u64];
        // SAFETY: the result's place holds 8 bytes.
        unsafe { self.launcher.clear(sum, size_of::<u64>())? };
        enqueue(&self.launcher, sum)?;
        // SAFETY: as above.
        unsafe { read(&self.launcher, sum, &mut folded)? };
        Ok(folded[0])
    }
}
