//! Captured micro-batches give the bits of micro-batches that are not, in whatever order they are walked.

use verydeep::backend::cuda::Options;
use verydeep::plan::WalkOrder;

use super::simulator::{calls, fail, reports};
use super::training::train;

#[test]
fn neither_graphs_nor_the_order_of_the_walk_change_a_bit() {
    let mut runs = Vec::new();
    for order in WalkOrder::ALL {
        for graphs in [false, true] {
            let options = Options {
                graphs,
                ..Options::default()
            };
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
