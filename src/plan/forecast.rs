//! How much memory a run will take, before it takes any.

use serde::Serialize;

use super::{IN_FLIGHT, Levels, Lowering, Plan, Tree, WalkOrder};

/// Bytes by purpose. What is forecast here is what gets allocated; of a device's workspace, the most that it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The parameters.
    pub weights: u64,
    /// One gradient buffer per slot of the reduction tree.
    pub gradients: u64,
    /// Momentum.
    pub optimizer: u64,
    /// The arenas that the order of the walk asks for: values, their gradients, saved state and scratch; each the
    /// larger of training and validation.
    pub activations: u64,
    /// What the back end and its threads need beside the arena, and the copy of the largest array that is made to
    /// hash and save it.
    pub workspace: u64,
    /// The ring of slots between the workers and the network, and the workers' own buffers.
    pub loader: u64,
    /// The program itself: code's data, stacks, tables.
    pub process: u64,
    /// The sum of the above.
    pub total: u64,
    /// What of it lies on the device, where that has memory of its own.
    #[serde(skip)]
    pub device: u64,
}

/// What a process of this program holds before it has a network: allocator, stacks, tables. Measured.
const PROCESS_BYTES: u64 = 1 << 20;

impl Memory {
    /// A training run over `plan` with validation over `evaluation`, both lowered by `lowering`. On each of
    /// `devices`, `replicas` share the weights and the momentum; each has its part `tree` of the reduction tree and an
    /// input pipeline of `loader` bytes. All numbers are those of one device.
    pub fn training(
        lowering: &dyn Lowering,
        [plan, evaluation]: [&Plan; 2],
        tree: Tree,
        order: WalkOrder,
        loader: u64,
        [replicas, devices]: [usize; 2],
    ) -> Self {
        let received = 4 * Levels::new(0, 1, devices).received() as u64;
        let replicas = replicas as u64;
        let flat = 4 * plan.flat_len as u64;
        let weights = lowering.weight_bytes(plan);
        let workspace = lowering
            .workspace_bytes(plan)
            .max(lowering.workspace_bytes(evaluation))
            * replicas
            + received;
        let arena = plan.arena_bytes.max(evaluation.arena_bytes) as u64;
        let outcomes = plan.outcome_bytes(tree.leaves().max(IN_FLIGHT)) as u64;
        let activations = replicas * (arena * order.arenas(tree.leaves()) as u64 + outcomes);
        // Hashes and checkpoints copy one array at a time to the host.
        let staging = plan
            .parameters
            .iter()
            .map(|p| 4 * p.len() as u64)
            .max()
            .unwrap_or(0);
        let gradients = replicas * flat * tree.slots() as u64;
        let device = weights + gradients + flat + activations + workspace;
        Self {
            device,
            ..Self::sum(
                weights,
                gradients,
                flat,
                activations,
                workspace + staging,
                replicas * loader,
            )
        }
    }

    fn sum(
        weights: u64,
        gradients: u64,
        optimizer: u64,
        activations: u64,
        workspace: u64,
        loader: u64,
    ) -> Self {
        let process = PROCESS_BYTES;
        let total = weights + gradients + optimizer + activations + workspace + loader + process;
        Self {
            weights,
            gradients,
            optimizer,
            activations,
            workspace,
            loader,
            process,
            total,
            device: total - loader - process,
        }
    }
}
