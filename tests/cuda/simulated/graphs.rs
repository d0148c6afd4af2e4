//! Captured micro-batches give the bits of micro-batches that are not, in whatever order they are walked.

use verydeep::backend::Precision;
use verydeep::backend::cuda::Options;
use verydeep::plan::WalkOrder;

use super::simulator::{calls, fail, reports, seed};
use super::training::train;

#[test]
fn neither_graphs_nor_the_order_of_the_walk_change_a_bit() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        in_precision(precision);
    }
}

fn in_precision(precision: Precision) {
    let mut runs = Vec::new();
    for order in WalkOrder::ALL {
        for graphs in [false, true] {
            let options = Options { precision, graphs };
            fail("none"); // counts anew
            let trained = train(options, order, 5).unwrap();
            runs.push((format!("{order}, graphs: {graphs}"), trained.weights, calls()[1]));
        }
    }
    let (_, first, _) = &runs[0];
    assert!(first.iter().all(|weight| weight.is_finite()));
    for (what, weights, _) in &runs {
        assert_eq!(weights, first, "{what}");
    }
    assert_eq!(reports(), 0);
    // Every combination of buffers is walked, then captured, then launched.
    for pair in runs.chunks(2) {
        let [(what, _, plain), (_, _, captured)] = pair else {
            unreachable!("two of each order");
        };
        assert!(captured < plain, "{what}: {captured} launches instead of {plain}");
    }
}

/// Whatever the order that streams run in.
#[test]
fn twenty_orders_of_the_streams_give_the_same_bits() {
    let mut weights = Vec::new();
    for number in 0..20 {
        seed(number);
        let options = Options {
            graphs: number % 2 == 1,
            ..Options::default()
        };
        let order = WalkOrder::ALL[number as usize / 2 % 2];
        // Every second step has the same places for its images: the third captures and launches what the first walked.
        weights.push(train(options, order, 3).unwrap().weights);
        assert_eq!(weights[0], weights[number as usize], "seed {number}, {order}");
        assert_eq!(reports(), 0, "seed {number}, {order}");
    }
}
