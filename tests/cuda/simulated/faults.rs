//! Every call of the driver that can fail, failing in turn: a typed error with the right exit code, nothing leaked, and a
//! process that can try again.

use std::hash::{BuildHasher, RandomState};

use verydeep::backend::cuda::Options;
use verydeep::error::{Error, Result};
use verydeep::plan::WalkOrder;

use super::simulator::{calls, fail, reports};
use super::training::{Trained, train};

/// Makes call after call of a kind fail, as `numbers` says of their count, in a training of some steps.
fn fail_in_turn(
    kind: &str,
    place: usize,
    train: impl Fn() -> Result<Trained>,
    numbers: impl Fn(u64) -> Vec<u64>,
    check: impl Fn(&Error),
) {
    fail("none");
    let expected = train().unwrap();
    let (until_the_end, all) = (expected.calls[place], calls()[place]);
    assert!(until_the_end > 0, "there are calls of kind {kind}");
    for number in numbers(all) {
        let at = format!("{kind} call {number} of {all}");
        fail(&format!("{kind}:{number}"));
        match train() {
            Err(error) => check(&error),
            Ok(trained) => {
                assert!(number > until_the_end, "{at} failed and nobody noticed");
                assert_eq!(trained.weights, expected.weights, "{at}");
            }
        }
        assert_eq!(reports(), 0, "{at}");
    }
    fail("none");
    let again = train().unwrap();
    assert_eq!(again.weights, expected.weights, "as if nothing had been");
    assert_eq!(reports(), 0);
}

/// Every call of a kind, in one step of training.
fn each_in_turn(kind: &str, place: usize, check: impl Fn(&Error)) {
    let train = || train(Options::default(), WalkOrder::DepthFirst, 1);
    fail_in_turn(kind, place, train, |all| (1..=all).collect(), check);
}

fn is_of_the_device(error: &Error) {
    assert!(
        matches!(error, Error::Device { device, .. } if device == "cuda:0"),
        "{error:?}"
    );
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn an_allocation_that_fails_is_out_of_memory() {
    each_in_turn("alloc", 0, |error| {
        assert!(
            matches!(error, Error::OutOfMemory { bytes, .. } if *bytes > 0),
            "{error:?}"
        );
        assert_eq!(error.exit_code(), 5);
    });
}

#[test]
fn a_launch_that_fails_is_an_error_of_the_device() {
    each_in_turn("launch", 1, is_of_the_device);
}

#[test]
fn a_copy_that_fails_is_an_error_of_the_device() {
    each_in_turn("copy", 2, is_of_the_device);
}

#[test]
fn any_other_call_that_fails_is_an_error_of_the_device() {
    // Before the device is known by its number, it is "cuda".
    each_in_turn("other", 4, |error| {
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
    });
}

#[test]
fn a_failure_while_graphs_are_captured_is_an_error_of_the_device() {
    // Graphs are captured in the third step. Which of its calls fail is drawn anew at every run of this test.
    let options = Options {
        graphs: true,
        ..Options::default()
    };
    let train = || train(options, WalkOrder::FullyConnectedFirst, 3);
    let hasher = RandomState::new();
    let late = |all: u64| {
        let before = all * 3 / 5;
        (0..10)
            .map(|i| before + 1 + hasher.hash_one(i) % (all - before))
            .collect()
    };
    for (kind, place) in [("launch", 1), ("other", 4)] {
        fail_in_turn(kind, place, train, late, is_of_the_device);
    }
}
