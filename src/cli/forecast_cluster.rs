//! `verydeep plan --gpu --nodes --gpus`: how long a training step would take on several GPUs that are not here.

use serde_json::{Value, json};

use super::output::say;
use crate::error::Result;
use crate::network::Config;
use crate::plan::{
    Arithmetic, Baseline, Cluster, ClusterStep, Expectation, LINK_EFFICIENCY, Plan, Reduction, Roofline,
    ScalingFigure, Traffic, WalkOrder, scaling_figures,
};

/// A training step on several GPUs, by data sheets.
pub(super) struct ClusterForecast {
    cluster: Cluster,
    arithmetic: Arithmetic,
    order: WalkOrder,
    /// Micro-batches of each GPU, and images of each of them.
    share: [usize; 2],
    step: ClusterStep,
    traffic: Traffic,
    /// Bytes of the gradient.
    gradient: u64,
    /// Images/s of one GPU with the share of one, and with the whole batch.
    alone: [f64; 2],
    figures: Vec<&'static ScalingFigure>,
}

impl ClusterForecast {
    /// Of the micro-batch `plan`, `micro_batches` of which make a step of all GPUs; a power of two shares them.
    pub(super) fn new(
        cluster: Cluster,
        arithmetic: Arithmetic,
        (config, plan): (Config, &Plan),
        (order, micro_batches): (WalkOrder, usize),
        is_papers: bool,
    ) -> Result<Self> {
        let rates = Expectation::of(cluster.gpu, arithmetic)?.expected;
        let element = arithmetic.element_bytes();
        let leaves = micro_batches / cluster.replicas();
        let alone = |leaves| Roofline::new(plan, leaves, element, rates).images_per_sec();
        let figures = scaling_figures(&cluster, config, arithmetic).filter(|_| is_papers);
        Ok(Self {
            cluster,
            arithmetic,
            order,
            share: [leaves, plan.batch],
            step: ClusterStep::new(
                (plan, order),
                leaves,
                element,
                rates,
                (&cluster, Reduction::Exact),
            ),
            traffic: cluster.traffic(plan, element),
            gradient: plan.gradient_bytes(),
            alone: [alone(leaves), alone(micro_batches)],
            figures: figures.collect(),
        })
    }

    /// How many times as fast as one GPU.
    fn speedup(&self, baseline: Baseline) -> f64 {
        let [same_share, same_batch] = self.alone;
        let one = match baseline {
            Baseline::SameShare => same_share,
            Baseline::SameBatch => same_batch,
        };
        self.step.images_per_sec() / one
    }

    /// Speed-up over the number of GPUs.
    fn efficiency(&self, baseline: Baseline) -> f64 {
        self.speedup(baseline) / self.cluster.replicas() as f64
    }

    /// How far the forecast is from a figure's images/s and from its speed-up, as fractions of the figure.
    fn deviations(&self, figure: &ScalingFigure) -> (Option<f64>, f64) {
        let rate = |public: f64| self.step.images_per_sec() / public - 1.0;
        let speedup = self.speedup(figure.baseline) / figure.speedup - 1.0;
        (figure.images_per_sec.map(rate), speedup)
    }

    /// What was assumed beyond the forecast of one GPU, in words.
    fn assumptions(&self) -> [String; 5] {
        let node = &self.cluster.node;
        [
            format!(
                "links reach {LINK_EFFICIENCY} of their data sheets' bandwidth, in both directions at once: assumed, not \
                 fitted"
            ),
            format!(
                "inside a node: {}, {:.1} GB/s from each GPU ({}: {})",
                node.link,
                node.inside / 1e9,
                node.model,
                node.source
            ),
            format!(
                "between nodes: {} x {:.0} Gb/s ({}), each GPU through the nearest, not shared with other jobs",
                node.adapters,
                8.0 * node.adapter / 1e9,
                node.network
            ),
            "--reduce exact: gradients and weights travel as f32; one serial stream exchanges and adds pieces of the \
             buckets, in the order in which they become final; it takes nothing from the stream that computes"
                .into(),
            "each GPU updates what it owns; the weights are gathered when all gradients are added, and waited for before the next step; latencies, \
             launches, messages and waiting for slower replicas cost nothing"
                .into(),
        ]
    }

    /// The object under `cluster` in `plan --json`.
    pub(super) fn json(&self) -> Value {
        let Self {
            cluster,
            step,
            traffic,
            ..
        } = self;
        let node = &cluster.node;
        json!({
            "nodes": cluster.nodes,
            "gpus": cluster.gpus,
            "replicas": cluster.replicas(),
            "walk": self.order.name(),
            "micro_batches_per_gpu": self.share[0],
            "node": {
                "model": node.model,
                "source": node.source,
                "link": node.link,
                "link_bandwidth": node.inside,
                "network": node.network,
                "adapters": node.adapters,
                "network_bandwidth": node.network_of(cluster.gpus),
                "efficiency": LINK_EFFICIENCY,
            },
            "assumptions": self.assumptions(),
            "gradient_bytes": self.gradient,
            "bytes_per_gpu_inside": traffic.inside,
            "bytes_per_node_between": traffic.between,
            "compute_seconds": step.compute,
            "update_seconds": step.update,
            "reduce_seconds": step.reduce,
            "reduce_exposed_seconds": step.reduce_exposed,
            "gather_seconds": step.gather,
            "hidden_seconds": step.hidden(),
            "exposed_seconds": step.exposed(),
            "step_seconds": step.seconds(),
            "images_per_sec": step.images_per_sec(),
            "speedup_same_share": self.speedup(Baseline::SameShare),
            "speedup_same_batch": self.speedup(Baseline::SameBatch),
            "efficiency_same_share": self.efficiency(Baseline::SameShare),
            "efficiency_same_batch": self.efficiency(Baseline::SameBatch),
            "public_figures": self.figures.iter().map(|figure| self.figure_json(figure)).collect::<Vec<_>>(),
        })
    }

    fn figure_json(&self, figure: &ScalingFigure) -> Value {
        let (rate, speedup) = self.deviations(figure);
        json!({
            "images_per_sec": figure.images_per_sec,
            "speedup": figure.speedup,
            "precision": figure.arithmetic.name(),
            "setting": figure.setting,
            "source": figure.source,
            "deviation": rate,
            "speedup_deviation": speedup,
        })
    }

    /// For people.
    pub(super) fn say(&self) {
        let cluster = &self.cluster;
        say(format_args!(
            "the same step on {} ({} a node): {} on each in {}, {} walk; nothing was run",
            count(cluster.replicas(), "GPU"),
            cluster.gpus,
            count(self.share[0], "micro-batch"),
            self.arithmetic.name(),
            self.order
        ));
        for assumption in self.assumptions() {
            say(format_args!("  assumed: {assumption}"));
        }
        self.say_traffic();
        self.say_times();
        if self.figures.is_empty() {
            say("no public figure for this network and precision on these GPUs is known to this program");
        }
        for figure in &self.figures {
            self.say_figure(figure);
        }
    }

    fn say_traffic(&self) {
        let (traffic, megabytes) = (&self.traffic, |bytes: u64| bytes as f64 / 1e6);
        say(format_args!(
            "sent in a step: {:.1} MB by each GPU inside its node, {:.1} MB by each node to others; the gradient is {:.1} MB",
            megabytes(traffic.inside),
            megabytes(traffic.between),
            megabytes(self.gradient)
        ));
    }

    fn say_times(&self) {
        let step = &self.step;
        for (what, seconds, note) in [
            ("micro-batches", step.compute, ""),
            ("reduction", step.reduce_exposed, "exposed"),
            ("", step.hidden(), "hidden behind the backward pass: not counted"),
            ("update", step.update, "of what a GPU owns"),
            ("gathering", step.gather, "exposed"),
            ("step", step.seconds(), ""),
        ] {
            say(format_args!("  {what:<14} {:>9.2} ms   {note}", 1e3 * seconds));
        }
        say(format_args!(
            "forecast: {:.0} images/s; {:.2} times one GPU with as many micro-batches as each (efficiency {:.1} %), {:.2} \
             times one GPU with the whole batch ({:.1} %)",
            step.images_per_sec(),
            self.speedup(Baseline::SameShare),
            100.0 * self.efficiency(Baseline::SameShare),
            self.speedup(Baseline::SameBatch),
            100.0 * self.efficiency(Baseline::SameBatch)
        ));
    }

    fn say_figure(&self, figure: &ScalingFigure) {
        let (rate, speedup) = self.deviations(figure);
        let images = figure.images_per_sec.zip(rate).map(|(public, deviation)| {
            format!(
                "{public:.0} images/s, the forecast deviates by {:+.0} %; ",
                100.0 * deviation
            )
        });
        let from = match figure.baseline {
            Baseline::SameShare => "one GPU with the same batch each",
            Baseline::SameBatch => "one GPU with the same batch in all",
        };
        say(format_args!(
            "public figure ({}, {}; {}): {}{:.2} times {from}, the forecast deviates by {:+.0} %",
            figure.arithmetic.name(),
            figure.setting,
            figure.source,
            images.unwrap_or_default(),
            figure.speedup,
            100.0 * speedup
        ));
    }
}

/// `n` of `what`, in the plural where there are several.
fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ if what.ends_with('h') => format!("{n} {what}es"),
        _ => format!("{n} {what}s"),
    }
}
