//! The calls that every back end takes, on a device: each checks what it is given and enqueues.

use std::ops::Range;

use super::launch::{Element, Launcher, Nhwc, UpdateFactors};
use super::staging::{HostMemory, read, write};
use super::{Buffer, Cuda, RESULT, graphs, lower, on_device, run};
use crate::backend::{Backend, Memory, State, Tensor};
use crate::error::{Error, Result};
use crate::network::batch_norm::MOMENTUM;
use crate::plan::{Part, Pass, Plan, Region, StepParams, UpdateRule};

impl Backend for Cuda {
    type Buffer = Buffer;
    type HostMemory = HostMemory;

    fn class(&self) -> String {
        self.class.clone()
    }

    fn algorithm(&self, plan: &Plan, step: usize, part: Part) -> String {
        run::algorithm(&self.lock(), &plan.steps[step], part)
    }

    fn wait(&self) -> Result<()> {
        self.lock().launcher.synchronize()
    }

    fn prepare(&self, plan: &Plan) -> Result<()> {
        let prepared = run::prepare(&mut self.lock(), plan);
        prepared
            .map(drop)
            .map_err(|why| on_device(why, self.facts.ordinal))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let state = self.lock();
        let free = state.launcher.stream().context().mem_get_info();
        let (free, _) = state.launcher.check("asking for free memory", free)?;
        let held = state.workspace.bytes() + state.block.bytes();
        Ok(Some((free + held) as u64))
    }

    fn allocate_host(&self, bytes: usize) -> Result<HostMemory> {
        HostMemory::zeroed(self.lock().launcher.stream(), bytes)
    }

    fn allocate_arena(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(self.lock().launcher.stream(), "the arena of activations", bytes)
    }

    fn allocate_parameters(&self, elements: usize) -> Result<Buffer> {
        let bytes = elements.saturating_mul(size_of::<f32>());
        Buffer::zeroed(self.lock().launcher.stream(), "a vector of all parameters", bytes)
    }

    fn allocate_weights(&self, elements: usize) -> Result<Buffer> {
        let weights = self.allocate_parameters(elements)?;
        match self.lowering.element() {
            Element::F32 => Ok(weights),
            Element::Bf16 => weights.with_bf16_copy("the weights in bf16"),
        }
    }

    fn write_parameters(&self, buffer: &mut Buffer, offset: usize, values: &[f32]) -> Result<()> {
        inside(buffer, offset..offset.saturating_add(values.len()))?;
        let state = self.lock();
        let at = buffer.element(offset);
        // SAFETY: the range has just been checked; the copy is as long.
        unsafe {
            write(&state.launcher, at, values)?;
            match buffer.bf16_copy(offset) {
                Some(copy) => state.launcher.fp32_to_bf16(at, copy, values.len()),
                None => Ok(()),
            }
        }
    }

    fn read_parameters(&self, buffer: &Buffer, offset: usize, values: &mut [f32]) -> Result<()> {
        inside(buffer, offset..offset.saturating_add(values.len()))?;
        // SAFETY: the range has just been checked.
        unsafe { read(&self.lock().launcher, buffer.element(offset), values) }
    }

    fn run(
        &self,
        plan: &Plan,
        step: usize,
        pass: Pass,
        memory: Memory<'_, Buffer>,
        params: &StepParams,
    ) -> Result<()> {
        run::run(&mut self.lock(), plan, step, pass, &memory, params)
            .map_err(|why| on_device(why, self.facts.ordinal))
    }

    fn captures(&self) -> bool {
        self.captures
    }

    fn walk(
        &self,
        plan: &Plan,
        passes: Range<usize>,
        mut memory: Memory<'_, Buffer>,
        params: &StepParams,
    ) -> Result<()> {
        if self.captures {
            return graphs::walk(&mut self.lock(), plan, &passes, &memory, params)
                .map_err(|why| on_device(why, self.facts.ordinal));
        }
        plan.part_of_schedule(passes)
            .try_for_each(|(step, pass)| self.run(plan, step, pass, memory.reborrow(), params))
    }

    fn read_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &Buffer,
        values: &mut [f32],
    ) -> Result<()> {
        let at = lower::Stored::of(&plan.steps[step], self.lowering.element(), tensor);
        at.check(values.len(), &plan.steps[step])?;
        let mut stored = vec![0u8; at.bytes()];
        // SAFETY: the region holds the tensor.
        unsafe { read(&self.lock().launcher, arena.at(at.offset), &mut stored)? };
        at.to_logical(&stored, values);
        Ok(())
    }

    fn write_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &mut Buffer,
        values: &[f32],
    ) -> Result<()> {
        let at = lower::Stored::of(&plan.steps[step], self.lowering.element(), tensor);
        at.check(values.len(), &plan.steps[step])?;
        let mut stored = vec![0u8; at.bytes()];
        at.store_logical(values, &mut stored);
        // SAFETY: the region holds the tensor.
        unsafe { write(&self.lock().launcher, arena.at(at.offset), &stored) }
    }

    fn outcomes(&self, plan: &Plan, arena: &Buffer, losses: &mut [f32], ranks: &mut [u32]) -> Result<()> {
        self.read_outcomes(arena.at(loss_saved(plan).offset), losses, ranks)
    }

    fn keep_outcomes(&self, plan: &Plan, arena: &Buffer, kept: &mut Buffer, index: usize) -> Result<()> {
        let saved = loss_saved(plan);
        let (from, to) = (arena.at(saved.offset), kept.at(index * saved.bytes));
        // SAFETY: both have room for what the loss saves.
        unsafe { self.lock().launcher.copy(to, from, saved.bytes) }
    }

    fn kept_outcomes(
        &self,
        plan: &Plan,
        kept: &Buffer,
        index: usize,
        losses: &mut [f32],
        ranks: &mut [u32],
    ) -> Result<()> {
        self.read_outcomes(kept.at(index * loss_saved(plan).bytes), losses, ranks)
    }

    fn tree_add(&self, slots: &mut [Buffer], elements: Range<usize>) -> Result<()> {
        if slots.len() < 2 {
            return Ok(());
        }
        for slot in &*slots {
            inside(slot, elements.clone())?;
        }
        let state = self.lock();
        let addresses: Vec<_> = slots.iter().map(|slot| slot.element(elements.start)).collect();
        // SAFETY: the ranges have just been checked.
        unsafe { state.launcher.tree_add(&addresses, elements.len()) }
    }

    fn is_finite(&self, buffer: &Buffer, elements: Range<usize>) -> Result<bool> {
        inside(buffer, elements.clone())?;
        let state = self.lock();
        let found = state.block.at(RESULT);
        let mut flag = [0u32];
        // SAFETY: the range has just been checked; the result's place holds 8 bytes.
        unsafe {
            state.launcher.clear(found, size_of::<u64>())?;
            state
                .launcher
                .is_finite(buffer.element(elements.start), elements.len(), found)?;
            read(&state.launcher, found, &mut flag)?;
        }
        Ok(flag[0] == 0)
    }

    fn update(
        &self,
        plan: &Plan,
        parameter: usize,
        rule: &UpdateRule,
        params: &StepParams,
        state: State<'_, Buffer>,
    ) -> Result<()> {
        let mut resources = self.lock();
        resources.send_params(params)?;
        let range = plan.parameters[parameter].range();
        enqueue_update(
            &resources.launcher,
            &resources.block,
            (plan, parameter, range),
            rule,
            state,
        )
    }

    fn fold_parameters(&self, buffer: &Buffer, elements: Range<usize>) -> Result<u64> {
        inside(buffer, elements.clone())?;
        self.lock().fold(|launcher, sum| {
            // SAFETY: the range has just been checked.
            unsafe { launcher.fold(buffer.element(elements.start), elements.len(), sum) }
        })
    }

    fn fold_copy(&self, weights: &Buffer, elements: usize) -> Result<Option<u64>> {
        inside(weights, 0..elements)?;
        let Some(copy) = weights.bf16_copy(0) else {
            return Ok(None);
        };
        let fold = self.lock().fold(|launcher, sum| {
            // SAFETY: the copy is as long as the buffer, and two of its elements are as large as one.
            unsafe { launcher.fold(copy, elements / 2, sum) }
        })?;
        Ok(Some(fold))
    }

    fn fold_tensor(&self, plan: &Plan, step: usize, tensor: Tensor, arena: &Buffer) -> Result<u64> {
        let at = lower::Stored::of(&plan.steps[step], self.lowering.element(), tensor);
        let shape = Nhwc {
            n: at.n,
            h: at.plane,
            w: 1,
            c: at.channels,
        };
        self.lock().fold(|launcher, sum| {
            // SAFETY: the region holds the tensor.
            unsafe { launcher.fold_nhwc(at.element, shape, at.pitch, arena.at(at.offset), sum) }
        })
    }
}

/// The update of some elements of an array, by the parameters of the step in `block`.
pub(super) fn enqueue_update(
    launcher: &Launcher,
    block: &Buffer,
    (plan, parameter, range): (&Plan, usize, Range<usize>),
    rule: &UpdateRule,
    state: State<'_, Buffer>,
) -> Result<()> {
    let parameter = &plan.parameters[parameter];
    for buffer in [&*state.weights, &*state.momentum, state.gradient] {
        inside(buffer, range.clone())?;
    }
    let [weights, momentum, gradient] =
        [&*state.weights, &*state.momentum, state.gradient].map(|buffer| buffer.element(range.start));
    let copy = state.weights.bf16_copy(range.start);
    if !parameter.role.is_learned() {
        let micro_batches = rule.micro_batches as f32;
        // SAFETY: the ranges have just been checked.
        return unsafe {
            launcher.update_statistics(weights, gradient, range.len(), MOMENTUM, micro_batches)
        };
    }
    // The multiplier of the step's rate is the rate at 1.
    let (rate, decay) = rule.rates(parameter, 1.0);
    let factors = UpdateFactors {
        rate,
        decay,
        momentum: rule.momentum,
        batch: rule.batch as f32,
    };
    // SAFETY: the ranges have just been checked.
    unsafe {
        let arrays = [weights, momentum, gradient];
        launcher.update_parameters(arrays, copy, range.len(), block.at(0), factors)
    }
}

/// Where the loss keeps every sample's outcome.
fn loss_saved(plan: &Plan) -> Region {
    plan.steps[plan.steps.len() - 1].memory.saved
}

pub(super) fn inside(buffer: &Buffer, elements: Range<usize>) -> Result<()> {
    if elements.end <= buffer.len() {
        return Ok(());
    }
    Err(Error::invalid(
        "length of a parameter vector",
        format_args!("at least {}", elements.end),
        buffer.len(),
    ))
}
