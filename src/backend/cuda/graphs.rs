//! Micro-batches as graphs: the kernels and library calls of a walk, captured once and launched in one call.
//!
//! A graph holds addresses, so there is one for each combination of buffers that walks are made with: the leaves of the
//! tree's stack, the arenas, and the slots of the inbox. What else differs between two micro-batches, seed, step and
//! position, comes from the slot (`DeviceStepParams`).

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use lru::LruCache;

use super::dnn::{ConvPlan, DevicePtr};
use super::launch::Launcher;
use super::memory::Buffer;
use super::{Resources, run};
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::plan::{Plan, PlanId, StepParams};

/// What a graph was captured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    plan: PlanId,
    /// First and end: a range is no key.
    passes: (usize, usize),
    slot: usize,
    arena: DevicePtr,
    weights: DevicePtr,
    factors: Option<DevicePtr>,
    leaf: DevicePtr,
}

/// A graph of one walk. Fields are dropped in this order.
struct Captured {
    graph: CudaGraph,
    /// What it launches: an engine that was compiled at run time ends with the last plan that has it.
    _plans: Vec<Arc<ConvPlan>>,
}

// SAFETY: a graph may be launched by any thread, one at a time; the back end's lock sees to that.
unsafe impl Send for Captured {}

/// Graphs that are kept: more than the leaves, slots and passes of a training and its validation make, and those of the
/// last images' sizes in an evaluation of whole images.
pub const KEPT_GRAPHS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The graphs of one device that were launched last. A combination that has been walked once, but not captured, has none
/// yet: the first walk lets the libraries load what they load lazily, which no capture allows.
pub(super) struct Graphs(LruCache<Key, Option<Captured>>);

impl Default for Graphs {
    fn default() -> Self {
        Self(LruCache::new(KEPT_GRAPHS))
    }
}

impl Graphs {
    /// Combinations that are known.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps a graph, or that there is none yet, and gives up the one that was launched longest ago where there are too
    /// many: its plans must not end before it has.
    fn keep(&mut self, launcher: &Launcher, key: Key, graph: Option<Captured>) -> Result<()> {
        match self.0.push(key, graph) {
            Some((_, Some(given_up))) => launcher.synchronize().map(|()| drop(given_up)),
            Some((_, None)) | None => Ok(()),
        }
    }

    /// Forgets all of them: memory that they use is about to end.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Executes a walk, from the second time on with these buffers as a graph.
pub(super) fn walk(
    resources: &mut Resources,
    plan: &Plan,
    passes: &Range<usize>,
    memory: &Memory<'_, Buffer>,
    params: &StepParams,
) -> Result<()> {
    // The first pass finishes the input; a walk that begins later goes on with what was received then.
    let slot = if passes.start == 0 {
        run::check_labels(plan, &memory.batch)?;
        resources.receive(plan, &memory.batch, params)?.current()
    } else {
        resources.inbox()?.current()
    };
    let key = Key {
        plan: plan.id,
        passes: (passes.start, passes.end),
        slot,
        arena: memory.arena.at(0),
        weights: memory.weights.at(0),
        factors: memory.weights.bf16_copy(0),
        leaf: memory.gradient.at(0),
    };
    match resources.graphs.0.get(&key) {
        Some(Some(graph)) => return launch(&resources.launcher, graph),
        None => {
            enqueue(resources, plan, passes, memory)?;
            resources.graphs.keep(&resources.launcher, key, None)?;
        }
        Some(None) => {
            let captured = capture(resources, plan, passes, memory)?;
            launch(&resources.launcher, &captured)?;
            resources.graphs.keep(&resources.launcher, key, Some(captured))?;
        }
    }
    Ok(())
}

fn launch(launcher: &Launcher, graph: &Captured) -> Result<()> {
    launcher.check("launching a graph", graph.graph.launch())
}

/// Every pass of the walk. The micro-batch has been received.
fn enqueue(
    resources: &mut Resources,
    plan: &Plan,
    passes: &Range<usize>,
    memory: &Memory<'_, Buffer>,
) -> Result<()> {
    plan.part_of_schedule(passes.clone())
        .try_for_each(|(step, pass)| run::run_received(resources, plan, step, pass, memory))
}

fn capture(
    resources: &mut Resources,
    plan: &Plan,
    passes: &Range<usize>,
    memory: &Memory<'_, Buffer>,
) -> Result<Captured> {
    // What the cache has given up since the walk before is made anew: during a capture it could not be.
    let plans = run::prepare(resources, plan)?;
    let stream: Arc<CudaStream> = Arc::clone(resources.launcher.stream());
    // Other threads may go on with what has nothing to do with this stream.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    resources
        .launcher
        .check("beginning a capture", stream.begin_capture(mode))?;
    let enqueued = enqueue(resources, plan, passes, memory);
    // Also after a failure: the stream must not stay in the capture.
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let ended = stream.end_capture(flags);
    enqueued?;
    let graph = resources.launcher.check("ending a capture", ended)?;
    let graph = graph.ok_or_else(|| Error::Device {
        device: "CUDA graph".into(),
        reason: "the capture of a micro-batch is empty".into(),
    })?;
    Ok(Captured { graph, _plans: plans })
}
