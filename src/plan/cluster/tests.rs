use super::super::tests::Greedy;
use super::super::{GPUS, Mode, SCALING_FIGURES};
use super::*;
use crate::data::preprocess::Preprocess;
use crate::network::{Config, Spec};

/// Net D with a number of classes that every number of replicas divides, in micro-batches of 8 images.
fn plan() -> Plan {
    let spec = Spec {
        classes: 1024,
        ..Spec::paper(Config::D)
    };
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    Plan::new(&spec.build().unwrap(), &preprocess, 8, Mode::Training, &Greedy).unwrap()
}

const RATES: Rates = Rates {
    flops: 1e13,
    bandwidth: 1e12,
};

fn cluster(nodes: usize, gpus: usize) -> Cluster {
    Cluster::new(Gpu::by_name("v100").unwrap(), nodes, gpus).unwrap()
}

/// Links that are `times` as fast as those of the data sheet.
fn faster(cluster: Cluster, times: f64) -> Cluster {
    let node = Node {
        inside: cluster.node.inside * times,
        adapter: cluster.node.adapter * times,
        ..cluster.node
    };
    Cluster { node, ..cluster }
}

fn step(plan: &Plan, leaves: usize, cluster: &Cluster) -> ClusterStep {
    ClusterStep::new(
        (plan, WalkOrder::DepthFirst),
        leaves,
        4,
        RATES,
        (cluster, Reduction::Exact),
    )
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b, "{a} and {b}");
}

#[test]
fn one_gpu_is_the_forecast_of_one_gpu() {
    let plan = plan();
    for order in WalkOrder::ALL {
        for (leaves, element) in [(1, 4), (8, 4), (12, 2)] {
            let step = ClusterStep::new(
                (&plan, order),
                leaves,
                element,
                RATES,
                (&cluster(1, 1), Reduction::Exact),
            );
            let alone = Roofline::new(&plan, leaves, element, RATES);
            close(step.seconds(), alone.step_seconds());
            close(step.images_per_sec(), alone.images_per_sec());
            assert_eq!(
                [step.reduce, step.gather, step.exposed(), step.hidden()],
                [0.0; 4]
            );
        }
    }
}

#[test]
fn egress_is_the_formula() {
    let plan = plan();
    let gradient = plan.gradient_bytes();
    let part = |peers: u64| 2 * (peers - 1) * gradient / peers;
    for (nodes, gpus) in [(1, 1), (1, 2), (1, 8), (2, 1), (2, 8), (4, 4)] {
        let sent = cluster(nodes, gpus).traffic(&plan, 4);
        assert_eq!(sent.inside, part(gpus as u64), "{nodes} x {gpus}");
        assert_eq!(sent.between, part(nodes as u64), "{nodes} x {gpus}");
        // Weights come back in 16 bits.
        let sent = cluster(nodes, gpus).traffic(&plan, 2);
        assert_eq!(4 * sent.inside, 3 * part(gpus as u64), "{nodes} x {gpus}");
        assert_eq!(4 * sent.between, 3 * part(nodes as u64), "{nodes} x {gpus}");
    }
    // 128 slices of 1792 elements are rounded up to 16 bytes each.
    let sent = cluster(16, 8).traffic(&plan, 4).between;
    assert!((part(16)..part(16) + part(16) / 10_000).contains(&sent), "{sent}");
}

#[test]
fn communication_is_hidden_or_exposed() {
    let plan = plan();
    for (nodes, gpus) in [(1, 2), (1, 8), (2, 1), (2, 8), (16, 8)] {
        let mut before = f64::INFINITY;
        for times in [1e-3, 0.1, 1.0, 10.0, 1e6] {
            let step = step(&plan, 2, &faster(cluster(nodes, gpus), times));
            assert!(step.exposed() <= step.reduce + step.gather);
            assert!(step.hidden() >= 0.0 && step.hidden() <= step.compute);
            assert!(step.seconds() < before, "{nodes} x {gpus}, {times}: {step:?}");
            before = step.seconds();
        }
    }
}

/// Where links are slow, they have no rest from the moment that the first bucket, the last layer's, is final.
#[test]
fn slow_links_are_busy_from_the_first_bucket_on() {
    let plan = plan();
    let roofline = Roofline::new(&plan, 1, 4, RATES);
    let last = plan.buckets[0].step;
    let forward = plan.schedule().filter(|(_, pass)| *pass == Pass::Forward);
    let loss_and_last = [(last + 1, Pass::Backward), (last, Pass::Backward)];
    assert_eq!(plan.steps[last].name, "fc8");
    let first: f64 = forward
        .chain(loss_and_last)
        .map(|(step, pass)| roofline.pass_seconds(step, pass))
        .sum();
    let step = step(&plan, 1, &faster(cluster(2, 8), 1e-4));
    close(step.reduce_exposed, first + step.reduce - step.compute);
}

/// 89 % of net D's gradient is that of its fully connected layers.
#[test]
fn fully_connected_layers_first_hides_more() {
    let plan = plan();
    let slow = faster(cluster(1, 8), 0.03);
    let [depth_first, first] =
        WalkOrder::ALL.map(|order| ClusterStep::new((&plan, order), 8, 4, RATES, (&slow, Reduction::Exact)));
    close(depth_first.compute, first.compute);
    assert!(
        first.hidden() > 1.5 * depth_first.hidden(),
        "{depth_first:?}, {first:?}"
    );
}

#[test]
fn a_gpu_uses_no_more_than_its_adapter() {
    let node = cluster(1, 1).node;
    let rates = [1, 2, 4, 8].map(|gpus| node.network_of(gpus));
    assert_eq!(rates, [12.5e9, 25e9, 50e9, 50e9]);
}

#[test]
fn figures_are_of_gpus_that_a_node_has() {
    for figure in &SCALING_FIGURES {
        let gpu = GPUS.iter().find(|gpu| gpu.name == figure.gpu).unwrap();
        assert!(gpu.peak(figure.arithmetic).is_ok());
        let nodes = figure.nodes.unwrap_or(figure.gpus.div_ceil(gpu.node.gpus));
        let cluster = Cluster::new(gpu, nodes, figure.gpus / nodes).unwrap();
        assert_eq!(cluster.replicas(), figure.gpus);
        assert!(figure.speedup > 1.0);
    }
    let said = Cluster::new(&GPUS[1], 1, 16).unwrap_err().to_string();
    assert!(
        said.contains("--gpus: expected 1 to 8") && said.contains("--nodes"),
        "{said}"
    );
}

/// An all-reduce sends as much as an exact sum and its weights do, but while it can be hidden; the update is every
/// replica's whole.
#[test]
fn an_all_reduce_sends_the_same_and_updates_everything() {
    let plan = plan();
    for (nodes, gpus) in [(1, 1), (1, 2), (1, 8), (2, 8)] {
        let cluster = cluster(nodes, gpus);
        let [exact, nccl] = [Reduction::Exact, Reduction::Nccl].map(|reduction| {
            ClusterStep::new((&plan, WalkOrder::DepthFirst), 2, 4, RATES, (&cluster, reduction))
        });
        close(nccl.reduce, exact.reduce + exact.gather);
        assert_eq!((nccl.gather, nccl.compute), (0.0, exact.compute));
        close(nccl.update, exact.update * cluster.replicas() as f64);
    }
}
