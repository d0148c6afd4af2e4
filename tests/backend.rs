//! Every back end against the reference, and the reference against finite differences.

mod common;

use common::differences;

#[test]
fn gradients_of_every_operation_are_finite_differences() {
    differences::of_every_operation();
}

#[test]
fn gradients_of_whole_networks_are_finite_differences() {
    differences::of_whole_networks();
}
