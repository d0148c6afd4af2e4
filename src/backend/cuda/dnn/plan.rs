//! Which engine executes a graph, and its execution.

mod offered;

use std::ffi::c_void;

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptor_t,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Heuristic,
    cudnnBackendNumericalNote_t as Note, cudnnDataType_t,
};

use super::descriptor::Descriptor;
use super::graph::{ConvPass, ConvShape, Uid};
use super::{DevicePtr, Target, WORKSPACE_CAP, check, failure};
use crate::backend::Precision;
use crate::error::Result;

impl Precision {
    /// The type of the tensors in memory.
    pub(super) fn element(self) -> cudnnDataType_t {
        match self {
            Self::Fp32 | Self::Tf32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
            Self::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        }
    }

    /// Whether an engine with this note breaks a promise: sums in an order that varies, or coarser arithmetic than the
    /// precision stands for. On f32 tensors, tensor cores compute in TF32.
    fn forbids(self, note: Note) -> bool {
        match note {
            Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE => self == Self::Fp32,
            Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC
            | Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS
            | Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION => true,
            _ => false,
        }
    }
}

/// What the heuristics offer for a graph, the most promising first. Behind what they recommend stand their fallbacks: in
/// true fp32, fused convolutions have no other engines on recent devices.
pub(crate) struct Candidates(Vec<Candidate>);

/// An engine configuration, and the note for which it may not be taken.
struct Candidate {
    config: Descriptor,
    engine: i64,
    forbidden: Option<Note>,
}

/// A candidate that was made into a plan.
pub(crate) struct Accepted {
    plan: Descriptor,
    /// cuDNN's number of the engine.
    pub(crate) engine: i64,
    /// Bytes.
    pub(crate) workspace: usize,
    /// How many were offered before it.
    pub(crate) rank: usize,
}

impl Candidates {
    /// Asks the heuristics.
    pub(crate) fn new(
        target: &Target,
        precision: Precision,
        pass: ConvPass,
        shape: ConvShape,
    ) -> Result<Self> {
        let graph = pass.graph(target, precision, shape)?;
        let mut configs = offered(target, &graph, Heuristic::CUDNN_HEUR_MODE_A)?;
        configs.extend(offered(target, &graph, Heuristic::CUDNN_HEUR_MODE_FALLBACK)?);
        let candidates = configs
            .into_iter()
            .map(|config| Candidate::new(config, precision));
        candidates.collect::<Result<_>>().map(Self)
    }

    /// How many there are.
    pub(crate) fn offered(&self) -> usize {
        self.0.len()
    }

    /// How many break no promise by what is noted of them.
    pub(crate) fn eligible(&self) -> usize {
        self.0
            .iter()
            .filter(|candidate| candidate.forbidden.is_none())
            .count()
    }

    /// The first that breaks no promise, can be made into a plan, and needs at most [`WORKSPACE_CAP`] bytes: a function
    /// of (cuDNN's version, device, shape, precision), never of a measurement. Else why each is not.
    pub(crate) fn choose(&self, target: &Target) -> Result<Accepted, Vec<String>> {
        let mut refused = Vec::new();
        for (rank, candidate) in self.0.iter().enumerate() {
            match candidate.plan(target, rank) {
                Ok(accepted) if accepted.workspace <= WORKSPACE_CAP => return Ok(accepted),
                Ok(accepted) => refused.push(format!(
                    "engine {}: {} bytes of workspace",
                    accepted.engine, accepted.workspace
                )),
                Err(why) => refused.push(format!("engine {}: {why}", candidate.engine)),
            }
        }
        refused.dedup();
        Err(refused)
    }
}

impl Candidate {
    fn new(config: Descriptor, precision: Precision) -> Result<Self> {
        let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        let descriptor = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        config.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, descriptor, &mut [engine.raw()])?;
        let mut notes = [Note::CUDNN_NUMERICAL_NOTE_TYPE_COUNT; 16];
        let count = engine.get(
            Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
            Type::CUDNN_TYPE_NUMERICAL_NOTE,
            &mut notes,
        )?;
        let mut number = [0i64];
        engine.get(
            Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
            Type::CUDNN_TYPE_INT64,
            &mut number,
        )?;
        Ok(Self {
            config,
            engine: number[0],
            forbidden: notes[..count]
                .iter()
                .copied()
                .find(|note| precision.forbids(*note)),
        })
    }

    /// A plan, which may want any workspace.
    fn plan(&self, target: &Target, rank: usize) -> Result<Accepted> {
        if let Some(note) = self.forbidden {
            return Err(failure(format!("{note:?}")));
        }
        let plan = target
            .of_plan(Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?)?
            .descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&self.config])?
            .finalize("finalizing a plan")?;
        let mut workspace = [0i64];
        plan.get(
            Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
            Type::CUDNN_TYPE_INT64,
            &mut workspace,
        )?;
        Ok(Accepted {
            plan,
            engine: self.engine,
            workspace: workspace[0].unsigned_abs() as usize,
            rank,
        })
    }
}

/// The engine configurations that one heuristic offers for a graph, the most promising first.
fn offered(target: &Target, graph: &Descriptor, mode: Heuristic) -> Result<Vec<Descriptor>> {
    let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph])?
        .set(
            Name::CUDNN_ATTR_ENGINEHEUR_MODE,
            Type::CUDNN_TYPE_HEUR_MODE,
            &[mode],
        )?;
    let heuristics = target
        .of_heuristics(heuristics)?
        .finalize("asking the heuristics")?;
    let results = (
        Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
        Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
    );
    let count = heuristics.count(results.0, results.1)?;
    let mut configs = (0..count)
        .map(|_| Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
        .collect::<Result<Vec<_>>>()?;
    // cuDNN fills descriptors that the caller made.
    let mut raw: Vec<cudnnBackendDescriptor_t> = configs.iter().map(Descriptor::raw).collect();
    let filled = heuristics.get(results.0, results.1, &mut raw)?;
    configs.truncate(filled);
    configs
        .iter_mut()
        .for_each(|config| config.parts.push(heuristics.clone()));
    Ok(configs)
}

/// The memory of one execution. What the pass does not use is ignored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvTensors {
    /// x, or dx: (N, H, W, C).
    pub(crate) x: DevicePtr,
    /// w, or dw: (K, R, S, C).
    pub(crate) w: DevicePtr,
    /// y, or dy: (N, H, W, K).
    pub(crate) y: DevicePtr,
    /// (K).
    pub(crate) bias: DevicePtr,
}

/// A graph with the engine that executes it.
pub(crate) struct ConvPlan {
    pass: ConvPass,
    accepted: Accepted,
}

impl ConvPlan {
    /// Takes the plan that [`Candidates::choose`] chooses.
    pub(crate) fn new(
        target: &Target,
        precision: Precision,
        pass: ConvPass,
        shape: ConvShape,
    ) -> Result<Self> {
        let candidates = Candidates::new(target, precision, pass, shape)?;
        let accepted = candidates.choose(target).map_err(|refused| {
            failure(format!(
                "no deterministic {} plan for {pass:?} of {shape:?} within {WORKSPACE_CAP} bytes of workspace; {} \
                 were offered: {}",
                precision.name(),
                candidates.offered(),
                refused.join("; ")
            ))
        })?;
        Ok(Self { pass, accepted })
    }

    /// A plan that was chosen otherwise.
    pub(crate) fn of(pass: ConvPass, accepted: Accepted) -> Self {
        Self { pass, accepted }
    }

    /// cuDNN's number of the engine.
    pub(crate) fn engine(&self) -> i64 {
        self.accepted.engine
    }

    /// Bytes of workspace.
    pub(crate) fn workspace(&self) -> usize {
        self.accepted.workspace
    }

    /// Enqueues the execution on the handle's stream.
    ///
    /// # Safety
    ///
    /// The tensors must have the plan's sizes, the workspace at least [`ConvPlan::workspace`] bytes, and all stay
    /// allocated until the stream has executed it.
    pub(crate) unsafe fn execute(
        &self,
        target: &Target,
        tensors: ConvTensors,
        workspace: DevicePtr,
    ) -> Result<()> {
        let Target::Handle(handle) = target else {
            return Err(failure("a described device executes nothing".into()));
        };
        let named = [
            (Uid::X, tensors.x),
            (Uid::W, tensors.w),
            (Uid::Y, tensors.y),
            (Uid::Bias, tensors.bias),
        ];
        let used = match self.pass {
            ConvPass::Forward { .. } => &named[..],
            ConvPass::DataGradient | ConvPass::FilterGradient => &named[..3],
        };
        let uids: Vec<i64> = used.iter().map(|(uid, _)| *uid as i64).collect();
        let pointers: Vec<*mut c_void> = used.iter().map(|(_, pointer)| *pointer as *mut c_void).collect();
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &uids)?
            .set(
                Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                Type::CUDNN_TYPE_VOID_PTR,
                &pointers,
            )?
            .set(
                Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                Type::CUDNN_TYPE_VOID_PTR,
                &[workspace as *mut c_void],
            )?
            .finalize("finalizing a variant pack")?;
        // SAFETY: the caller vouches for the memory; plan and pack are finalized.
        let status = unsafe { sys::cudnnBackendExecute(*handle, self.accepted.plan.raw(), pack.raw()) };
        check(status, "executing a convolution")
    }
}
