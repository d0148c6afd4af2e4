use super::*;
use crate::network::{Config, Spec};

/// A back end that takes every fusion and needs a distinct, recognisable amount of everything.
pub(super) struct Greedy;

impl Lowering for Greedy {
    fn accepts(&self, _: StepOp) -> bool {
        true
    }

    fn masks(&self, op: StepOp) -> bool {
        op != StepOp::Loss
    }

    fn footprint(&self, step: &Step) -> Footprint {
        Footprint {
            value: 4 * step.batch * step.output.len(),
            gradient: 4 * step.batch * step.output.len(),
            saved: 60,
            forward_scratch: 1000,
            backward_scratch: 3000,
            backward_reads_input: true,
            backward_reads_value: false,
        }
    }

    fn workspace_bytes(&self, _: &Plan) -> u64 {
        0
    }
}

/// A back end that takes no fusion.
struct Plain;

impl Lowering for Plain {
    fn accepts(&self, _: StepOp) -> bool {
        false
    }

    fn masks(&self, _: StepOp) -> bool {
        false
    }

    fn footprint(&self, step: &Step) -> Footprint {
        Greedy.footprint(step)
    }

    fn workspace_bytes(&self, plan: &Plan) -> u64 {
        Greedy.workspace_bytes(plan)
    }
}

fn small(config: Config, batch_norm: bool) -> Network {
    let spec = Spec {
        batch_norm,
        classes: 10,
        crop: 32,
        width: 0.125,
        fc: 32,
        ..Spec::paper(config)
    };
    spec.build().unwrap()
}

fn plan(network: &Network, mode: Mode, lowering: &dyn Lowering) -> Plan {
    Plan::new(network, &Preprocess::subtract_mean([0.0; 3]), 4, mode, lowering).unwrap()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|s| s.name.as_str()).collect()
}

#[test]
fn fusions_are_taken_where_the_back_end_takes_them() {
    let network = small(Config::A, false);
    let fused = plan(&network, Mode::Training, &Greedy);
    assert_eq!(
        names(&fused)[..5],
        ["input", "conv1_1", "conv2_1", "conv3_1", "conv3_2"]
    );
    assert_eq!(
        fused.steps[1].op,
        StepOp::Conv {
            kernel: 3,
            epilogue: Epilogue::ReluPool
        }
    );
    assert_eq!(
        fused.steps[3].op,
        StepOp::Conv {
            kernel: 3,
            epilogue: Epilogue::Relu
        }
    );
    let plain = plan(&network, Mode::Training, &Plain);
    assert_eq!(plain.steps.len(), network.layers.len() + 2);
    for plan in [fused, plain] {
        let covered: Vec<usize> = plan.steps.iter().flat_map(|s| s.layers.clone()).collect();
        assert_eq!(covered, (0..network.layers.len()).collect::<Vec<_>>());
        assert_eq!(plan.steps.iter().map(|s| s.macs).sum::<u64>(), network.macs() * 4);
    }
}

/// Issue 8: a dense evaluation multiplies for the convolutions on that area, and (floor(H/32) - 6)(floor(W/32) - 6) times
/// for the fully connected layers, 0.1236 G at the paper's size.
#[test]
fn a_dense_plan_multiplies_once_for_every_window() {
    for config in [Config::A, Config::D, Config::E] {
        let trained = Spec::paper(config).build().unwrap();
        for (h, w) in [(224, 224), (256, 341), (384, 289), (512, 683)] {
            let dense = crate::network::dense(&trained, h, w).unwrap();
            for lowering in [&Greedy as &dyn Lowering, &Plain] {
                let plan = plan(&dense, Mode::Evaluation, lowering);
                let (mut convolutions, mut fully_connected) = (0, 0);
                for step in &plan.steps {
                    match step.op {
                        StepOp::Linear { .. } => {
                            let per_row = (step.input.len() * step.output.len()) as u64;
                            assert_eq!(step.macs, step.batch as u64 * per_row, "{}", step.name);
                            fully_connected += step.macs;
                        }
                        _ => convolutions += step.macs,
                    }
                }
                let (images, windows) = (plan.batch as u64, ((h / 32 - 6) * (w / 32 - 6)) as u64);
                assert_eq!(
                    fully_connected,
                    images * windows * 123_633_664,
                    "{config} {h}x{w}"
                );
                let all = images * dense.macs();
                assert_eq!(convolutions + fully_connected, all, "{config} {h}x{w}");
            }
        }
    }
}

#[test]
fn a_relu_is_masked_exactly_once() {
    for (config, bn) in [
        (Config::A, false),
        (Config::ALrn, false),
        (Config::C, false),
        (Config::D, true),
    ] {
        let plan = plan(&small(config, bn), Mode::Training, &Greedy);
        for pair in plan.steps.windows(2) {
            let masked = pair[1].data_gradient == DataGradient::Masked;
            assert_eq!(
                masked,
                pair[0].value_gradient == ValueGradient::Masked,
                "{}",
                pair[0].name
            );
        }
        assert_eq!(plan.steps[1].data_gradient, DataGradient::None);
    }
}

#[test]
fn evaluation_plans_no_dropout_and_no_gradients() {
    let plan = plan(&small(Config::D, true), Mode::Evaluation, &Plain);
    assert!(plan.steps.iter().all(|s| !matches!(s.op, StepOp::Dropout { .. })));
    assert!(
        plan.steps
            .iter()
            .all(|s| s.memory.gradient.bytes + s.memory.backward_scratch.bytes == 0)
    );
    assert!(plan.schedule().all(|(_, pass)| pass == Pass::Forward));
}

/// Replays the schedule and checks, at every moment, that no two live regions overlap.
#[test]
fn live_regions_never_overlap() {
    for (config, bn) in [(Config::A, false), (Config::ALrn, false), (Config::E, true)] {
        for (mode, lowering) in [
            (Mode::Training, &Greedy as &dyn Lowering),
            (Mode::Training, &Plain),
            (Mode::Evaluation, &Greedy),
            (Mode::Evaluation, &Plain),
        ] {
            let plan = plan(&small(config, bn), mode, lowering);
            let steps = plan.steps.len();
            let mut live: Vec<Vec<Region>> = vec![Vec::new(); 2 * steps];
            let mut keep = |region: Region, from: usize, to: usize| {
                assert!(region.range().end <= plan.arena_bytes);
                assert!(region.offset.is_multiple_of(Region::ALIGNMENT));
                (from..=to.min(2 * steps - 1))
                    .filter(|_| region.bytes > 0)
                    .for_each(|t| live[t].push(region));
            };
            for (i, step) in plan.steps.iter().enumerate() {
                let backward = 2 * steps - 1 - i;
                let training = mode == Mode::Training;
                keep(step.memory.forward_scratch, i, i);
                let until = if i + 1 == steps {
                    2 * steps
                } else if training {
                    backward - 1
                } else {
                    i + 1
                };
                keep(step.memory.value, i, until);
                keep(step.memory.saved, i, if training { backward } else { i });
                keep(step.memory.gradient, backward - 1, backward);
                keep(step.memory.backward_scratch, backward, backward);
            }
            for (time, regions) in live.iter_mut().enumerate() {
                regions.sort_by_key(|r| r.offset);
                for pair in regions.windows(2) {
                    assert!(
                        pair[0].range().end <= pair[1].offset,
                        "{config} {mode:?} at {time}: {pair:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn buckets_cover_every_parameter_in_the_order_of_the_backward_pass() {
    let network = small(Config::D, true);
    let plan = plan(&network, Mode::Training, &Greedy);
    let mut arrays: Vec<usize> = plan.buckets.iter().flat_map(|b| b.parameters.clone()).collect();
    arrays.sort_unstable();
    assert_eq!(arrays, (0..network.parameters.len()).collect::<Vec<_>>());
    assert!(
        plan.buckets
            .is_sorted_by(|a, b| a.step > b.step && a.elements.start >= b.elements.end)
    );
}

#[test]
fn an_empty_micro_batch_is_refused() {
    let network = small(Config::A, false);
    let error = Plan::new(
        &network,
        &Preprocess::subtract_mean([0.0; 3]),
        0,
        Mode::Training,
        &Plain,
    )
    .unwrap_err();
    assert_eq!(error.exit_code(), 3);
}

/// Every pass of every micro-batch once, forward before backward, a step's backward passes in the order of the
/// micro-batches; and of "fully connected first" what its name says.
#[test]
fn a_walk_covers_the_schedule_of_every_micro_batch() {
    let plan = plan(&small(Config::D, false), Mode::Training, &Greedy);
    assert_eq!(plan.schedule().count(), plan.passes());
    let schedule: Vec<(usize, Pass)> = plan.schedule().collect();
    for (order, micro_batches) in WalkOrder::ALL.into_iter().flat_map(|o| [(o, 1), (o, 2), (o, 6)]) {
        let mut walked = vec![Vec::new(); micro_batches];
        let mut backward = Vec::new();
        for arrived in 0..micro_batches {
            for segment in order.segments(&plan, micro_batches, arrived) {
                assert!(segment.micro_batch <= arrived, "its images are there");
                for place in segment.passes {
                    walked[segment.micro_batch].push(place);
                    let (step, pass) = schedule[place];
                    if pass == Pass::Backward {
                        backward.push((segment.micro_batch, plan.steps[step].op));
                    }
                }
            }
        }
        assert!(
            walked
                .iter()
                .all(|places| places.iter().copied().eq(0..plan.passes()))
        );
        if order == WalkOrder::FullyConnectedFirst {
            let last = |is: fn(StepOp) -> bool| backward.iter().rposition(|(_, op)| is(*op)).unwrap();
            let first_conv = backward
                .iter()
                .position(|(_, op)| matches!(op, StepOp::Conv { .. }))
                .unwrap();
            assert!(last(StepOp::is_fully_connected) < first_conv);
        }
    }
}
