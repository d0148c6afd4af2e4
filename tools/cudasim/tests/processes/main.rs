//! NCCL between processes: what communicators compute and report when their ranks are spread over processes, and what
//! becomes of the others when one of these dies or stops.
//!
//! Each test runs this binary anew for every process; there [`a_process`] runs the ranks that it is told to.

#[path = "../planted/machine.rs"]
#[allow(dead_code, reason = "the planted tests use more of it")]
mod machine;

mod faults;
mod launcher;
mod mistakes;
mod programs;
mod results;
mod wire;

/// Not a test: what runs in each process of the others.
#[test]
fn a_process() {
    if let Some(orders) = launcher::Orders::of_this_process() {
        orders.obey();
    }
}
