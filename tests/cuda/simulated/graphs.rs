//! Captured micro-batches give the bits of micro-batches that are not.

use verydeep::backend::cuda::Options;

use super::simulator::{calls, fail, reports};
use super::training::train;

#[test]
fn a_graph_changes_no_bit() {
    let mut launches = Vec::new();
    let trained = [false, true].map(|graphs| {
        let options = Options {
            graphs,
            ..Options::default()
        };
        fail("none"); // counts anew
        let trained = train(options, 5).unwrap();
        launches.push(calls()[1]);
        trained.weights
    });
    assert_eq!(trained[0], trained[1]);
    assert!(trained[0].iter().all(|weight| weight.is_finite()));
    assert_eq!(reports(), 0);
    // Every combination of leaf and slot is walked, then captured, then launched.
    assert!(launches[1] < launches[0], "{launches:?}");
}
