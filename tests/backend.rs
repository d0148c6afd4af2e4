//! Every back end against the reference, and the reference against finite differences.
//!
//! Shapes and numbers are fresh at every run; a failure prints the seed that repeats it (`VERYDEEP_TEST_SEED`).

mod common;

use common::agreement::{self, Judge};
use common::{accuracy, alike, device, differences, exact, sentinels, ten_steps};

use verydeep::backend::Precision;
use verydeep::backend::cpu::{ConvAlgorithm, Cpu};
use verydeep::backend::cuda::{Cuda, Options};
use verydeep::backend::reference::Reference;

#[test]
fn gradients_of_every_operation_are_finite_differences() {
    differences::of_every_operation();
}

#[test]
fn gradients_of_whole_networks_are_finite_differences() {
    differences::of_whole_networks();
}

/// Everything that a back end must satisfy.
macro_rules! judge {
    ($name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn every_operation_agrees_with_the_reference() {
                agreement::on_every_operation(Judge::fp32(), &$backend);
            }

            #[test]
            fn whole_networks_agree_with_the_reference() {
                agreement::on_whole_networks(Judge::fp32(), &$backend);
            }

            #[test]
            fn every_pass_keeps_to_its_memory() {
                sentinels::around_every_operation(&$backend);
            }

            #[test]
            fn inputs_are_fused_multiply_adds() {
                exact::inputs(&$backend);
            }

            #[test]
            fn relu_lets_nan_pass() {
                exact::relu(&$backend);
            }

            #[test]
            fn max_pool_takes_the_first_of_equals() {
                exact::max_pool_ties(&$backend);
            }

            #[test]
            fn dropout_draws_the_masks_of_the_contract() {
                exact::dropout(&$backend);
            }

            #[test]
            fn ranks_count_ties_and_nan() {
                exact::ranks_and_losses(&$backend);
            }

            #[test]
            fn impossible_labels_are_refused() {
                exact::impossible_labels(&$backend);
            }

            #[test]
            fn batch_norm_leaves_its_statistics_in_the_leaf() {
                exact::statistics(&$backend);
            }

            #[test]
            fn the_update_rule_is_exact() {
                exact::update(&$backend);
            }

            #[test]
            fn the_tree_adds_in_its_order() {
                exact::tree_add(&$backend);
            }

            #[test]
            fn flat_vectors_are_read_folded_and_searched() {
                exact::flat_vectors(&$backend);
            }
        }
    };
}

judge!(reference, Reference::<f32>::new());
judge!(reference_fused, Reference::<f32>::fused());
judge!(cpu_on_one_thread, Cpu::new(1).unwrap());
judge!(cpu_on_two_threads, Cpu::new(2).unwrap());
judge!(cpu_with_winograd4, cpu_with(ConvAlgorithm::Winograd4));
judge!(cpu_with_winograd2, cpu_with(ConvAlgorithm::Winograd2));
judge!(cpu_without_winograd, cpu_with(ConvAlgorithm::Direct));
judge!(cuda_on_the_simulated_device, cuda());

/// Small layers too are computed as asked.
fn cpu_with(algorithm: ConvAlgorithm) -> Cpu {
    Cpu::new(2).unwrap().with_convolution(algorithm)
}

fn cuda() -> Cuda {
    cuda_in(Precision::Fp32)
}

fn cuda_in(precision: Precision) -> Cuda {
    let options = Options {
        precision,
        ..Options::default()
    };
    let device = device::under_test();
    Cuda::open(device.ordinal, device.libraries, options).unwrap()
}

mod cuda_in_tf32_on_the_simulated_device {
    use super::*;

    #[test]
    fn every_operation_agrees_with_the_reference() {
        agreement::on_every_operation(Judge::tf32(), &cuda_in(Precision::Tf32));
    }

    #[test]
    fn whole_networks_agree_with_the_reference() {
        agreement::on_whole_networks(Judge::tf32(), &cuda_in(Precision::Tf32));
    }

    /// A judge that rounds nothing notices that factors are rounded.
    #[test]
    #[should_panic(expected = "allowed")]
    fn factors_are_rounded() {
        agreement::on_every_operation(Judge::fp32(), &cuda_in(Precision::Tf32));
    }
}

mod cuda_in_bf16_on_the_simulated_device {
    use super::*;

    #[test]
    fn every_operation_agrees_with_the_reference() {
        agreement::on_every_operation(Judge::bf16(), &cuda_in(Precision::Bf16));
    }

    #[test]
    fn whole_networks_agree_with_the_reference() {
        agreement::on_whole_networks(Judge::bf16(), &cuda_in(Precision::Bf16));
    }

    #[test]
    fn every_pass_keeps_to_its_memory() {
        sentinels::around_every_operation(&cuda_in(Precision::Bf16));
    }

    #[test]
    fn ten_steps_agree_with_the_reference() {
        let rounding = Reference::<f32>::new().with_bf16_roundings();
        ten_steps::agree(&rounding, &cuda_in(Precision::Bf16), ten_steps::BF16);
    }

    #[test]
    fn ten_steps_agree_with_fp32() {
        ten_steps::agree(
            &Cpu::new(2).unwrap(),
            &cuda_in(Precision::Bf16),
            ten_steps::BF16_AGAINST_FP32,
        );
    }
}

#[test]
fn ten_steps_of_the_simulated_device_agree_with_the_cpu() {
    ten_steps::agree(&Cpu::new(2).unwrap(), &cuda(), ten_steps::FP32);
}

#[test]
fn the_cpu_gives_the_same_bits_on_any_number_of_threads() {
    for algorithm in [ConvAlgorithm::Auto, ConvAlgorithm::Winograd2] {
        let cpu = |threads| Cpu::new(threads).unwrap().with_convolution(algorithm);
        for threads in [2, 3, 5] {
            exact::same_bits(&cpu(1), &cpu(threads));
        }
    }
}

#[test]
fn winograd_is_accurate() {
    accuracy::of_winograd();
}

#[test]
fn the_simulated_device_gives_the_bits_of_the_cpu() {
    alike::to_the_bit(&Cpu::new(2).unwrap(), &cuda());
}
