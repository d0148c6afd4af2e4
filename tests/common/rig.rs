//! A back end, a plan and its memory: what a test drives step by step.

use std::ops::Range;

use verydeep::backend::cpu::{Buffer, Cpu};
use verydeep::backend::cuda::{Buffer as DeviceBuffer, Cuda};
use verydeep::backend::reference::Reference;
use verydeep::backend::{Backend, Memory, Tensor};
use verydeep::plan::{Footprint, Lowering, Pass, Plan, Step, StepOp, StepParams};

use super::cases::preprocess;
use super::{Case, Draw, Images};

/// Access to a buffer as it lies in memory, layout and gaps included.
pub(crate) trait Raw: Backend {
    /// All of it.
    fn bytes(&self, buffer: &Self::Buffer) -> Vec<u8>;

    /// Overwrites all of it.
    fn set_bytes(&self, buffer: &mut Self::Buffer, bytes: &[u8]);

    /// Makes all of it zero: on a device, new memory may not be read before it is written.
    fn clear(&self, buffer: &mut Self::Buffer) {
        let bytes = self.bytes(buffer).len();
        self.set_bytes(buffer, &vec![0; bytes]);
    }
}

impl Raw for Reference<f64> {
    fn bytes(&self, buffer: &Vec<f64>) -> Vec<u8> {
        bytemuck::cast_slice(buffer).to_vec()
    }

    fn set_bytes(&self, buffer: &mut Vec<f64>, bytes: &[u8]) {
        bytemuck::cast_slice_mut(buffer).copy_from_slice(bytes);
    }
}

impl Raw for Reference<f32> {
    fn bytes(&self, buffer: &Vec<f32>) -> Vec<u8> {
        bytemuck::cast_slice(buffer).to_vec()
    }

    fn set_bytes(&self, buffer: &mut Vec<f32>, bytes: &[u8]) {
        bytemuck::cast_slice_mut(buffer).copy_from_slice(bytes);
    }
}

impl Raw for Cpu {
    fn bytes(&self, buffer: &Buffer) -> Vec<u8> {
        bytemuck::cast_slice(buffer.as_slice()).to_vec()
    }

    fn set_bytes(&self, buffer: &mut Buffer, bytes: &[u8]) {
        bytemuck::cast_slice_mut(buffer.as_mut_slice()).copy_from_slice(bytes);
    }
}

impl Raw for Cuda {
    fn bytes(&self, buffer: &DeviceBuffer) -> Vec<u8> {
        self.read_bytes(buffer).unwrap()
    }

    fn set_bytes(&self, buffer: &mut DeviceBuffer, bytes: &[u8]) {
        self.write_bytes(buffer, bytes).unwrap();
    }

    fn clear(&self, buffer: &mut DeviceBuffer) {
        let zeros = vec![0; buffer.bytes()];
        self.write_bytes(buffer, &zeros).unwrap();
    }
}

/// One back end's fusions with another's memory: how two back ends get the same steps.
pub(crate) struct Like<'a> {
    /// Says which steps are fused and masked.
    pub(crate) choices: &'a dyn Lowering,
    /// Says how much memory they need.
    pub(crate) memory: &'a dyn Lowering,
}

impl Lowering for Like<'_> {
    fn accepts(&self, op: StepOp) -> bool {
        self.choices.accepts(op)
    }

    fn masks(&self, op: StepOp) -> bool {
        self.choices.masks(op)
    }

    fn footprint(&self, step: &Step) -> Footprint {
        self.memory.footprint(step)
    }

    fn workspace_bytes(&self, plan: &Plan) -> u64 {
        self.memory.workspace_bytes(plan)
    }

    fn weight_bytes(&self, plan: &Plan) -> u64 {
        self.memory.weight_bytes(plan)
    }
}

/// Bytes behind the plan's arena, to catch what is written past its end.
const GUARD: usize = 4096;

/// A plan on a back end, with memory of its own.
pub(crate) struct Rig<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) plan: Plan,
    pub(crate) arena: B::Buffer,
    pub(crate) weights: B::Buffer,
    pub(crate) gradient: B::Buffer,
    pub(crate) params: StepParams,
}

impl<'a, B: Raw> Rig<'a, B> {
    /// `case` on `backend`, with the fusions of `choices`.
    pub(crate) fn new(backend: &'a B, choices: &dyn Lowering, case: &Case, params: StepParams) -> Self {
        let lowering = Like {
            choices,
            memory: backend,
        };
        let plan = Plan::new(&case.network, &preprocess(), case.batch, case.mode, &lowering).unwrap();
        let mut arena = backend.allocate_arena(plan.arena_bytes + GUARD).unwrap();
        backend.clear(&mut arena);
        Self {
            arena,
            weights: backend.allocate_weights(plan.flat_len).unwrap(),
            gradient: backend.allocate_parameters(plan.flat_len).unwrap(),
            backend,
            plan,
            params,
        }
    }

    pub(crate) fn run(&mut self, step: usize, pass: Pass, images: &Images) {
        let memory = Memory {
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.gradient,
            batch: images.batch(),
        };
        self.backend
            .run(&self.plan, step, pass, memory, &self.params)
            .unwrap();
    }

    /// Some passes of a micro-batch, by their places in the schedule.
    pub(crate) fn walk(&mut self, passes: Range<usize>, images: &Images) {
        let memory = Memory {
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.gradient,
            batch: images.batch(),
        };
        self.backend
            .walk(&self.plan, passes, memory, &self.params)
            .unwrap();
    }

    pub(crate) fn set_weights(&mut self, values: &[f32]) {
        self.backend
            .write_parameters(&mut self.weights, 0, values)
            .unwrap();
    }

    /// Elements of a step's value and of its gradient.
    pub(crate) fn len(&self, step: usize) -> usize {
        self.plan.steps[step].batch * self.plan.steps[step].output.len()
    }

    pub(crate) fn get(&self, step: usize, tensor: Tensor) -> Vec<f32> {
        let mut values = vec![0.0; self.len(step)];
        self.backend
            .read_tensor(&self.plan, step, tensor, &self.arena, &mut values)
            .unwrap();
        values
    }

    pub(crate) fn set(&mut self, step: usize, tensor: Tensor, values: &[f32]) {
        self.backend
            .write_tensor(&self.plan, step, tensor, &mut self.arena, values)
            .unwrap();
    }

    /// Array `parameter` of the plan.
    pub(crate) fn parameter(&self, parameter: usize) -> Vec<f32> {
        self.array(&self.weights, parameter)
    }

    /// The gradient of array `parameter` of the plan.
    pub(crate) fn parameter_gradient(&self, parameter: usize) -> Vec<f32> {
        self.array(&self.gradient, parameter)
    }

    fn array(&self, buffer: &B::Buffer, parameter: usize) -> Vec<f32> {
        let parameter = &self.plan.parameters[parameter];
        let mut values = vec![0.0; parameter.len()];
        self.backend
            .read_parameters(buffer, parameter.offset, &mut values)
            .unwrap();
        values
    }

    /// Losses and ranks of the last step.
    pub(crate) fn outcomes(&self) -> (Vec<f32>, Vec<u32>) {
        let (mut losses, mut ranks) = (vec![0.0; self.plan.batch], vec![0; self.plan.batch]);
        self.backend
            .outcomes(&self.plan, &self.arena, &mut losses, &mut ranks)
            .unwrap();
        (losses, ranks)
    }
}

/// Random step parameters; positions beyond 32 bits too.
pub(crate) fn step_params(draw: &mut Draw) -> StepParams {
    StepParams {
        seed: draw.bits(),
        step: 0,
        position: draw.bits() >> 8,
        learning_rate: 0.01,
    }
}
