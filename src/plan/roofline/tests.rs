use super::super::public_figures::Evidence;
use super::super::{Footprint, GPUS, Lowering, Mode, Step, StepOp};
use super::*;
use crate::data::preprocess::Preprocess;
use crate::network::Spec;

/// Fuses ReLUs, masks nothing: as the CUDA back end does for products.
struct Fusing;

impl Lowering for Fusing {
    fn accepts(&self, op: StepOp) -> bool {
        op.epilogue() != super::super::Epilogue::ReluPool
    }

    fn masks(&self, _: StepOp) -> bool {
        false
    }

    fn footprint(&self, _: &Step) -> Footprint {
        Footprint::default()
    }

    fn workspace_bytes(&self, _: &Plan) -> u64 {
        0
    }
}

fn plan(config: Config, batch: usize) -> Plan {
    let network = Spec {
        classes: 1000,
        ..Spec::paper(config)
    }
    .build()
    .unwrap();
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    Plan::new(&network, &preprocess, batch, Mode::Training, &Fusing).unwrap()
}

fn step(plan: &Plan, name: &str) -> usize {
    plan.steps.iter().position(|step| step.name == name).unwrap()
}

#[test]
fn the_work_of_a_convolution_is_what_a_hand_computes() {
    // Net D, conv1_2, two images: 64 -> 64 channels of 224x224, 36 864 + 64 parameters.
    let plan = plan(Config::D, 2);
    let at = step(&plan, "conv1_2");
    let tensor = 2 * 64 * 224 * 224; // x, and y
    let flops = 2 * (2 * 64 * 224 * 224) * (64 * 9);
    let weights = 64 * 64 * 9 + 64;
    let work = |part, element| plan.work(at, part, element).unwrap();
    assert_eq!(
        work(Part::Forward, 4),
        Work {
            flops,
            bytes: 4 * (2 * tensor + weights)
        }
    );
    // This back end does not mask in a convolution's gradient, so every ReLU masks its own: y read, dy written.
    assert_eq!(
        work(Part::FilterGradient, 4),
        Work {
            flops,
            bytes: 4 * (4 * tensor + weights)
        }
    );
    assert_eq!(
        work(Part::DataGradient, 2),
        Work {
            flops,
            bytes: 2 * (2 * tensor + weights)
        }
    );
    // Weight gradients stay f32.
    assert_eq!(work(Part::FilterGradient, 2).bytes, 2 * 4 * tensor + 4 * weights);
}

#[test]
fn parts_that_do_not_exist_have_no_work() {
    let plan = plan(Config::A, 1);
    let none = |name: &str, part| assert_eq!(plan.work(step(&plan, name), part, 4), None, "{name} {part:?}");
    none("input", Part::DataGradient);
    none("input", Part::FilterGradient);
    none("conv1_1", Part::DataGradient);
    none("pool1", Part::FilterGradient);
    none("loss", Part::FilterGradient);
    // A pooling: 64 x 224 x 224 in, a quarter out, a byte per maximum.
    let (x, y) = (64 * 224 * 224, 64 * 112 * 112);
    let pool = plan.work(step(&plan, "pool1"), Part::Forward, 4).unwrap();
    assert_eq!(
        pool,
        Work {
            flops: 0,
            bytes: 4 * (x + y) + y
        }
    );
}

#[test]
fn the_products_of_a_step_are_three_times_the_forward_ones_but_for_the_first_layer() {
    for config in Config::all() {
        let plan = plan(config, 1);
        let flops = |part| -> u64 {
            (0..plan.steps.len())
                .filter_map(|step| plan.work(step, part, 4))
                .map(|work| work.flops)
                .sum()
        };
        let forward: u64 = 2 * plan.steps.iter().map(|step| step.macs).sum::<u64>();
        let first = 2 * plan.steps[1].macs;
        assert_eq!(flops(Part::Forward), forward);
        assert_eq!(flops(Part::FilterGradient), forward);
        assert_eq!(flops(Part::DataGradient), forward - first, "{config}");
    }
}

#[test]
fn the_update_moves_what_a_hand_computes() {
    let plan = plan(Config::D, 1);
    let vector = 4 * 138_357_544;
    // One leaf: searched once; w, v, g read, w, v written.
    assert_eq!(plan.update_work(1).bytes, vector * 6);
    // Four leaves, ((0+1)+(2+3)): leaf 1 adds two buffers, leaf 3 adds three in one sweep.
    assert_eq!(plan.update_work(4).bytes, vector * (3 + 4 + 6));
}

#[test]
fn the_slower_of_arithmetic_and_memory_counts() {
    let rates = Rates {
        flops: 100.0,
        bandwidth: 10.0,
    };
    assert_eq!(
        rates.seconds(Work {
            flops: 300,
            bytes: 20
        }),
        (3.0, Limit::Arithmetic)
    );
    assert_eq!(
        rates.seconds(Work {
            flops: 300,
            bytes: 50
        }),
        (5.0, Limit::Memory)
    );
}

#[test]
fn a_step_is_its_micro_batches_and_one_update() {
    // Arithmetic costs nothing here, memory one second per byte.
    let plan = plan(Config::A, 2);
    let rates = Rates {
        flops: f64::INFINITY,
        bandwidth: 1.0,
    };
    let roofline = Roofline::new(&plan, 4, 4, rates);
    let parts = (0..plan.steps.len()).flat_map(|step| Part::ALL.map(|part| plan.work(step, part, 4)));
    let bytes: u64 = parts.flatten().map(|work| work.bytes).sum();
    assert_eq!(roofline.micro_batch_seconds(), bytes as f64);
    let step = 4 * bytes + plan.update_work(4).bytes;
    assert_eq!(roofline.step_seconds(), step as f64);
    assert_eq!(roofline.images_per_sec(), 8.0 / step as f64);
}

#[test]
fn a_gpu_refuses_arithmetic_that_it_does_not_have() {
    let v100 = Gpu::by_name("V100").unwrap();
    let said = v100.peak(Arithmetic::Bf16).unwrap_err().to_string();
    assert!(
        said.contains("expected fp32 or fp16 on the V100 SXM2, found bf16"),
        "{said}"
    );
    let said = Gpu::by_name("a1000").unwrap_err().to_string();
    assert!(said.contains("h100, a100"), "{said}");
}

#[test]
fn figures_belong_to_gpus_of_the_table_that_have_their_arithmetic() {
    for figure in &PUBLIC_FIGURES {
        let gpu = Gpu::by_name(figure.gpu).unwrap();
        assert!(gpu.peak(figure.arithmetic).is_ok(), "{figure:?}");
    }
    let names: std::collections::HashSet<&str> = GPUS.iter().map(|gpu| gpu.name).collect();
    assert_eq!(names.len(), GPUS.len());
    let a100 = Gpu::by_name("a100").unwrap();
    // bf16 is compared with fp16, never with single precision.
    let rates: Vec<f64> = public_figures(a100, Config::D, Arithmetic::Bf16)
        .map(|f| f.images_per_sec)
        .collect();
    assert_eq!(rates, [1190.0, 675.0]);
    assert_eq!(public_figures(a100, Config::D, Arithmetic::Fp32).count(), 0);
    assert_eq!(public_figures(a100, Config::E, Arithmetic::Tf32).count(), 0);
}

/// The two fitted assumptions, from the figures that they are said to come from.
#[test]
fn efficiencies_are_the_medians_over_the_public_figures() {
    for (unit, constant) in [
        (Unit::TensorCores, TENSOR_CORE_EFFICIENCY),
        (Unit::CudaCores, CUDA_CORE_EFFICIENCY),
    ] {
        let mut fractions = Vec::new();
        for figure in PUBLIC_FIGURES
            .iter()
            .filter(|figure| figure.evidence == Evidence::Measured)
        {
            let (peak, on) = Gpu::by_name(figure.gpu).unwrap().peak(figure.arithmetic).unwrap();
            if on != unit {
                continue;
            }
            let plan = plan(figure.config, 1);
            let works = (0..plan.steps.len()).flat_map(|step| Part::ALL.map(|part| plan.work(step, part, 4)));
            let flops: u64 = works.flatten().map(|work| work.flops).sum();
            fractions.push(figure.images_per_sec * flops as f64 / peak);
        }
        fractions.sort_by(f64::total_cmp);
        let (low, high) = (
            fractions[(fractions.len() - 1) / 2],
            fractions[fractions.len() / 2],
        );
        let median = f64::midpoint(low, high);
        assert!(
            (median - constant).abs() < 0.005,
            "{unit:?}: {fractions:?}, {constant}"
        );
    }
}
