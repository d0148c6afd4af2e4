//! A training step on several GPUs, by data sheets: what goes over the links, and how much of that hides behind the
//! backward pass.
//!
//! What is modelled is what `parallel::Nccl` does (DESIGN section 3). A bucket's sum is final when the last local
//! micro-batch has passed its step; from then on its pieces are reduced, one after the other, on one serial stream beside
//! the one that computes: inside the node, then between nodes. When all are reduced, every replica updates what it owns,
//! and what products read of the weights is gathered: in 16 bits where they read 16 bits. The next step waits for it, so
//! nothing hides that. With NCCL's all-reduce instead, the sums go to all replicas in the same exchange, and each of them
//! updates everything.

use std::ops::Range;

use super::gpus::Gpu;
use super::links::{LINK_EFFICIENCY, Node};
use super::reduction::Reduction;
use super::roofline::{Rates, Roofline};
use super::slices::{Level, pieces};
use super::work::{F32, Work, merge_work, rule_work};
use super::{Bucket, Pass, Plan, Tree, WalkOrder};
use crate::error::{Error, Result};

/// GPUs of one kind, equally many in every node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// Which.
    pub gpu: &'static Gpu,
    /// The links, at the data sheet's rates.
    pub node: Node,
    /// Nodes.
    pub nodes: usize,
    /// GPUs of each node.
    pub gpus: usize,
}

/// What the one GPU is given that several are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// As many micro-batches as each of the several.
    SameShare,
    /// The whole batch.
    SameBatch,
}

/// Bytes sent: of a piece, or of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// By one GPU to others of its node.
    pub inside: u64,
    /// By all GPUs of a node together, to other nodes.
    pub between: u64,
}

impl Cluster {
    /// Refuses more GPUs than such a node has.
    pub fn new(gpu: &'static Gpu, nodes: usize, gpus: usize) -> Result<Self> {
        let node = gpu.node;
        if nodes == 0 {
            return Err(Error::invalid("--nodes", "at least 1", nodes));
        }
        if !(1..=node.gpus).contains(&gpus) {
            let expected = format_args!("1 to {}, what {} has; more with --nodes", node.gpus, node.model);
            return Err(Error::invalid("--gpus", expected, gpus));
        }
        Ok(Self {
            gpu,
            node,
            nodes,
            gpus,
        })
    }

    /// Replicas: one on each GPU.
    pub fn replicas(&self) -> usize {
        self.nodes.saturating_mul(self.gpus)
    }

    /// What is sent in one step where tensors have `element` bytes per element: every piece of every bucket twice, to be
    /// reduced and to be gathered.
    pub fn traffic(&self, plan: &Plan, element: u64) -> Traffic {
        let mut sum = Traffic::default();
        for bucket in &plan.buckets {
            for piece in pieces(bucket.elements.clone()) {
                for bytes in [F32, gathered_bytes(plan, bucket, element)] {
                    let once = self.traffic_of(&piece, bytes);
                    sum.inside += once.inside;
                    sum.between += once.between;
                }
            }
        }
        sum
    }

    /// What the first GPU and the first node, whose slices are never smaller than another's, receive while a piece is
    /// reduced, and send while it is gathered, with so many `bytes` per element.
    fn traffic_of(&self, piece: &Range<usize>, bytes: u64) -> Traffic {
        let [inside, between] = self.levels();
        let of_gpus = (0..self.gpus).map(|gpu| between.received(&inside.slice(piece, gpu)));
        Traffic {
            inside: bytes * inside.received(piece) as u64,
            between: bytes * of_gpus.sum::<usize>() as u64,
        }
    }

    /// Those of the first GPU, also where it is alone.
    fn levels(&self) -> [Level; 2] {
        [self.gpus, self.nodes].map(|peers| Level {
            peers: (0..peers).collect(),
            own: 0,
        })
    }

    /// What the first GPU adds to its own share of a piece: one share after the other, two read and one written.
    fn additions(&self, piece: &Range<usize>) -> Work {
        let [inside, between] = self.levels();
        let added = inside.received(piece) + between.received(&inside.own_slice(piece));
        Work {
            flops: 0,
            bytes: 3 * F32 * added as u64,
        }
    }

    /// Seconds that the links need, one after the other, at the rates that may be expected.
    fn seconds(&self, traffic: Traffic) -> f64 {
        let at = |bytes: u64, rate: f64| bytes as f64 / (LINK_EFFICIENCY * rate);
        at(traffic.inside, self.node.inside) + at(traffic.between, self.node.network_of(self.gpus))
    }
}

/// Bytes per element of a bucket's weights on their way back, where tensors have `element`.
fn gathered_bytes(plan: &Plan, bucket: &Bucket, element: u64) -> u64 {
    if plan.are_factors(bucket) { element } else { F32 }
}

/// A step of one replica of a cluster. Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterStep {
    /// Images of all replicas.
    pub images: usize,
    /// Passes of the local micro-batches, and the additions of their gradients.
    pub compute: f64,
    /// Exchange and addition of the replicas' gradients.
    pub reduce: f64,
    /// What of that is left when everything is computed.
    pub reduce_exposed: f64,
    /// Update of what one replica owns, or of everything by all of them.
    pub update: f64,
    /// Exchange of the weights.
    pub gather: f64,
}

impl ClusterStep {
    /// Of a batch of `leaves` micro-batches for each replica, walked in `order`, with tensors of `element` bytes per
    /// element, on GPUs that compute at `rates`, gradients added by `reduction`.
    pub fn new(
        (plan, order): (&Plan, WalkOrder),
        leaves: usize,
        element: u64,
        rates: Rates,
        (cluster, reduction): (&Cluster, Reduction),
    ) -> Self {
        let walk = Walk::new((plan, order), leaves, element, rates);
        let (mut reduce, mut gather, mut link_free) = (0.0, 0.0, 0.0_f64);
        for (bucket, ready) in plan.buckets.iter().zip(&walk.ready) {
            for piece in pieces(bucket.elements.clone()) {
                let exchange = |bytes| cluster.seconds(cluster.traffic_of(&piece, bytes));
                let mut seconds = exchange(F32) + rates.seconds(cluster.additions(&piece)).0;
                match reduction {
                    Reduction::Exact => gather += exchange(gathered_bytes(plan, bucket, element)),
                    // The other half of an all-reduce: the sums go to all.
                    Reduction::Nccl => seconds += exchange(F32),
                }
                link_free = link_free.max(*ready) + seconds;
                reduce += seconds;
            }
        }
        let learned = plan.learned(0..plan.parameters.len());
        let owners = match reduction {
            Reduction::Exact => cluster.replicas() as u64,
            Reduction::Nccl => 1,
        };
        let updated = rule_work(learned.div_ceil(owners));
        Self {
            images: cluster.replicas() * leaves * plan.batch,
            compute: walk.end,
            reduce,
            reduce_exposed: (link_free - walk.end).max(0.0),
            update: rates.seconds(updated).0,
            gather,
        }
    }

    /// The whole step.
    pub fn seconds(&self) -> f64 {
        self.compute + self.reduce_exposed + self.update + self.gather
    }

    /// Communication that nothing hides.
    pub fn exposed(&self) -> f64 {
        self.reduce_exposed + self.gather
    }

    /// Communication behind the backward pass.
    pub fn hidden(&self) -> f64 {
        self.reduce - self.reduce_exposed
    }

    /// Images per second of all replicas.
    pub fn images_per_sec(&self) -> f64 {
        self.images as f64 / self.seconds()
    }
}

/// When what is computed, in seconds from the beginning of a step.
struct Walk {
    /// By bucket of the plan: its local sum is final.
    ready: Vec<f64>,
    /// Everything is computed.
    end: f64,
}

impl Walk {
    fn new((plan, order): (&Plan, WalkOrder), leaves: usize, element: u64, rates: Rates) -> Self {
        let roofline = Roofline::new(plan, leaves, element, rates);
        let tree = Tree::new(leaves);
        let mut ready = vec![0.0; plan.buckets.len()];
        let mut now = 0.0;
        for segment in (0..leaves).flat_map(|arrived| order.segments(plan, leaves, arrived)) {
            for (step, pass) in plan.part_of_schedule(segment.passes) {
                now += roofline.pass_seconds(step, pass);
                let Some(bucket) = bucket_of(plan, step, pass) else {
                    continue;
                };
                let elements = plan.learned(plan.buckets[bucket].parameters.clone());
                now += rates.seconds(merge_work(tree, segment.micro_batch, elements)).0;
                ready[bucket] = now; // the last micro-batch's is the last one
            }
        }
        Self { ready, end: now }
    }
}

/// The bucket that a pass contributes to.
fn bucket_of(plan: &Plan, step: usize, pass: Pass) -> Option<usize> {
    match pass {
        Pass::Forward => None,
        Pass::Backward => plan.buckets.iter().position(|bucket| bucket.step == step),
    }
}

#[cfg(test)]
mod tests;
