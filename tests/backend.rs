//! Every back end against the reference, and the reference against finite differences.
//!
//! Shapes and numbers are fresh at every run; a failure prints the seed that repeats it (`VERYDEEP_TEST_SEED`).

mod common;

use common::{accuracy, agreement, alike, differences, exact, sentinels};
use std::sync::Once;

use verydeep::backend::cpu::{ConvAlgorithm, Cpu};
use verydeep::backend::cuda::libraries::Libraries;
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
                agreement::on_every_operation(&$backend);
            }

            #[test]
            fn whole_networks_agree_with_the_reference() {
                agreement::on_whole_networks(&$backend);
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
judge!(cpu_with_winograd, cpu_with(ConvAlgorithm::Winograd4));
judge!(cpu_without_winograd, cpu_with(ConvAlgorithm::Direct));
judge!(cuda_on_the_simulated_device, simulated());

/// Small layers too are computed as asked.
fn cpu_with(algorithm: ConvAlgorithm) -> Cpu {
    Cpu::new(2).unwrap().with_convolution(algorithm)
}

/// A device of the simulator, which `cargo build --workspace` puts beside the tests.
fn simulated() -> Cuda {
    static SIMULATOR: Once = Once::new();
    // SAFETY: the variable is set once, and whoever reads it comes here first.
    SIMULATOR.call_once(|| unsafe { std::env::set_var("VERYDEEP_SIMULATE_CUDA", "1") });
    Cuda::open(0, Libraries::load(&[]).unwrap(), Options::default()).unwrap()
}

#[test]
fn the_cpu_gives_the_same_bits_on_any_number_of_threads() {
    let one = Cpu::new(1).unwrap();
    for threads in [2, 3, 5] {
        exact::same_bits(&one, &Cpu::new(threads).unwrap());
    }
}

#[test]
fn winograd_is_accurate() {
    accuracy::of_winograd();
}

#[test]
fn the_simulated_device_gives_the_bits_of_the_cpu() {
    alike::to_the_bit(&Cpu::new(2).unwrap(), &simulated());
}
