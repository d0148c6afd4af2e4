//! Times of whole steps on synthetic images: what the network costs when data is never late.

use std::time::Instant;

use super::median;
use crate::backend::Backend;
use crate::data::loader::SlotMemory;
use crate::data::preprocess::{Flip, Preprocess};
use crate::error::{Error, Result};
use crate::exec::{IN_FLIGHT, Inference, Score, Shape, Training, Watch};
use crate::network::Network;
use crate::network::init::Init;
use crate::parallel::{ExchangeTimes, Group, Member, run};
use crate::plan::{Batch, Bucket, Part, Plan, StepParams, Tree, UpdateRule, WalkOrder};
use crate::rng::{Purpose, Stream};

/// Seconds of each measured step.
#[derive(Debug, Clone)]
pub struct StepTimes {
    /// In the order of measurement, after some that are not in it.
    pub seconds: Vec<f64>,
    /// What of them the exchange with other replicas took, where there is any.
    pub exchange: Vec<ExchangeTimes>,
    /// Images of a step.
    pub batch: usize,
    /// The plan that was run.
    pub plan: Plan,
    /// What part of the multiplications of each step's parts was done ([`Backend::share_of_products`]); 0 where it has no
    /// such part.
    pub shares: Vec<[f64; 3]>,
}

impl StepTimes {
    /// Images per second of the median step.
    pub fn median_rate(&self) -> f64 {
        self.batch as f64 / median(&self.seconds)
    }

    /// Images per second of the fastest step.
    pub fn best_rate(&self) -> f64 {
        self.batch as f64 / self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// The shares of all steps and parts, by [`Part::ALL`].
pub(super) fn shares<B: Backend>(backend: &B, plan: &Plan) -> Vec<[f64; 3]> {
    let share = |step, part| match plan.work(step, part, 1) {
        Some(_) => backend.share_of_products(plan, step, part),
        None => 0.0,
    };
    let steps = 0..plan.steps.len();
    steps
        .map(|step| Part::ALL.map(|part| share(step, part)))
        .collect()
}

/// Random pixels, flips, colours and labels of one micro-batch, where a loader would have them.
pub(super) struct Synthetic<M> {
    pixels: M,
    flips: Vec<Flip>,
    colours: Vec<[f32; 3]>,
    labels: Vec<u32>,
}

impl<M: SlotMemory> Synthetic<M> {
    pub(super) fn new<B>(backend: &B, network: &Network, batch: usize) -> Result<Self>
    where
        B: Backend<HostMemory = M>,
    {
        let mut stream = Stream::new(1, 0, Purpose::Synthetic, 0);
        let mut pixels = backend.allocate_host(batch * network.input.len())?;
        pixels.as_mut().fill_with(|| stream.next_u32() as u8);
        let flips = (0..batch)
            .map(|i| if i % 2 == 0 { Flip::Keep } else { Flip::Mirror })
            .collect();
        let labels = (0..batch)
            .map(|_| stream.below(network.classes as u64) as u32)
            .collect();
        Ok(Self {
            pixels,
            flips,
            colours: vec![[1.0, -2.0, 3.0]; batch],
            labels,
        })
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch {
            pixels: self.pixels.as_ref(),
            flips: &self.flips,
            colours: &self.colours,
            labels: &self.labels,
        }
    }
}

/// Steps that are not measured: fresh memory is touched, and where graphs are captured, each of the two places that
/// images take turns in is walked, then captured.
const WARM_UP: u64 = 4;

fn measure(steps: usize, mut step: impl FnMut(u64) -> Result<()>) -> Result<Vec<f64>> {
    (0..WARM_UP).try_for_each(&mut step)?;
    let mut seconds = Vec::with_capacity(steps);
    for number in WARM_UP..WARM_UP + steps as u64 {
        let started = Instant::now();
        step(number)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Random weights.
pub fn weights(network: &Network) -> Vec<f32> {
    let mut flat = vec![0.0; network.flat_len()];
    network.initialise(Init::Glorot, 1, &mut flat);
    flat
}

/// A training step that is timed.
#[derive(Debug, Clone, Copy)]
pub struct StepShape {
    /// Global batch in images.
    pub batch: usize,
    /// Images of a micro-batch.
    pub micro_batch: usize,
    /// Steps that are timed.
    pub steps: usize,
}

/// Times training steps of all replicas of this process: forward, backward, tree, update.
pub fn train_steps<B: Backend, G: Group<B> + Send>(
    members: Vec<Member<'_, B, G>>,
    network: &Network,
    shape: StepShape,
) -> Result<StepTimes> {
    // A failure of another one is what the first one hears when it waits for it.
    let other = |member| drop(replica_steps(member, network, shape));
    run(members, |member| replica_steps(member, network, shape), other)
}

/// The part of one replica.
fn replica_steps<B: Backend, G: Group<B>>(
    member: Member<'_, B, G>,
    network: &Network,
    shape: StepShape,
) -> Result<StepTimes> {
    let StepShape {
        batch,
        micro_batch,
        steps,
    } = shape;
    let Member {
        backend,
        mut group,
        parameters,
    } = member;
    let rule = UpdateRule {
        momentum: 0.9,
        weight_decay: 5e-4,
        bias_decay: 1.0,
        bias_lr: 1.0,
        batch,
        micro_batches: batch / micro_batch,
    };
    let replicas = group.place().replicas;
    let tree = Tree::new(rule.micro_batches)
        .subtree(replicas)
        .ok_or_else(|| Error::invalid("replicas", "owners of a subtree each", replicas))?;
    let shape = Shape {
        micro_batch,
        tree,
        order: WalkOrder::default(),
    };
    let preprocess = Preprocess::subtract_mean([123.0, 117.0, 104.0]);
    let mut training = Training::new(backend, network, &preprocess, shape, parameters)?;
    let images = Synthetic::new(backend, network, micro_batch)?;
    let share = tree.leaves();
    let first = (group.place().rank * share * micro_batch) as u64;
    let mut exchange = Vec::new();
    let seconds = measure(steps, |step| {
        group.begin(step);
        let mut params = StepParams {
            seed: 1,
            step,
            position: step * batch as u64 + first,
            learning_rate: 1e-6,
        };
        for leaf in 0..share {
            let mut watch = Buckets(&mut group);
            training.micro_batch(leaf, images.batch(), &params, &mut watch)?;
            params.position += micro_batch as u64;
        }
        for _ in 0..share {
            training.outcomes()?;
        }
        group.update(&mut training, &rule, &params)?;
        exchange.extend(group.exchange_times().filter(|_| step >= WARM_UP));
        Ok(())
    })?;
    group.leave()?;
    Ok(StepTimes {
        seconds,
        exchange,
        batch,
        shares: shares(backend, training.plan()),
        plan: training.plan().clone(),
    })
}

/// Sends buckets on their way.
struct Buckets<'g, G>(&'g mut G);

impl<B: Backend, G: Group<B>> Watch<B> for Buckets<'_, G> {
    fn bucket_final(&mut self, bucket: &Bucket, sum: &mut B::Buffer) -> Result<()> {
        self.0.bucket_final(bucket, sum)
    }
}

/// Times `steps` forward passes.
pub fn infer_steps<B: Backend>(
    backend: &B,
    network: &Network,
    batch: usize,
    steps: usize,
) -> Result<StepTimes> {
    let preprocess = Preprocess::subtract_mean([123.0, 117.0, 104.0]);
    let mut inference = Inference::new(backend, network, &preprocess, batch, &weights(network))?;
    let images = Synthetic::new(backend, network, batch)?;
    // One ahead, as an evaluation is: a step ends with what the one before it gave.
    (1..IN_FLIGHT).try_for_each(|_| inference.submit(images.batch()))?;
    let seconds = measure(steps, |_| {
        inference.submit(images.batch())?;
        inference.collect().map(|_| ())
    })?;
    Ok(StepTimes {
        seconds,
        exchange: Vec::new(),
        batch,
        shares: shares(backend, inference.plan()),
        plan: inference.plan().clone(),
    })
}
