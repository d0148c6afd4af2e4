//! Every kernel of `kernels/` on the simulated device, against plain loops over its stated equation: fresh random
//! shapes and values, views at any address, guards around every buffer, and the bytes that it moves.

#[path = "../common/draw.rs"]
#[expect(dead_code, reason = "tests/backend.rs uses the rest")]
mod draw;

mod channels;
mod columns;
mod device;
mod dropout;
mod elementwise;
mod images;
mod moved;
mod numbers;
mod partial_sums;
mod sums;

use std::collections::BTreeSet;
use std::path::Path;

use device::{Bench, traffic};

/// `subject: function, kernels`: a test for each, which must launch those kernels, and one for all, whose kernels must
/// be those of `kernels/*.cu`.
macro_rules! judge {
    ($($subject:ident: $function:path, [$($kernel:ident),+];)+) => {
        mod on_the_simulated_device {
            use super::*;

            $(#[test]
            fn $subject() {
                let mut bench = Bench::new();
                let kernels = [$(stringify!($kernel)),+];
                let before = kernels.map(traffic);
                $function(&mut bench);
                for (kernel, before) in kernels.iter().zip(before) {
                    assert!(traffic(kernel)[0] > before[0], "{kernel} was not launched");
                }
            })+

            #[test]
            fn kernels_move_what_they_state() {
                moved::bytes_moved(&mut Bench::new());
            }
        }

        #[test]
        fn no_kernel_is_left_out() {
            let judged = [$($(stringify!($kernel).to_string()),+),+];
            assert_eq!(BTreeSet::from(judged), kernels());
        }
    };
}

judge! {
    relu: elementwise::relu, [relu_forward];
    masked_gradients: elementwise::masked_gradients, [relu_backward, dropout_backward_masked];
    tree_add: elementwise::tree_add, [tree_add];
    update_parameters: elementwise::update_parameters, [update_parameters];
    update_statistics: elementwise::update_statistics, [update_statistics];
    is_finite: elementwise::is_finite, [is_finite];
    fold: elementwise::fold, [fold];
    bf16: elementwise::bf16, [fp32_to_bf16, bf16_to_fp32];
    dropout: dropout::dropout, [dropout_forward, dropout_backward];
    max_pool: images::max_pool, [max_pool_forward, max_pool_backward];
    layouts: images::layouts, [nhwc_from_nchw, nchw_from_nhwc, fold_nhwc];
    finish_input: images::finish_input, [finish_input];
    score_map_average: images::score_map_average, [score_map_average];
    lrn: channels::lrn, [lrn_forward, lrn_backward];
    softmax_cross_entropy: channels::softmax_cross_entropy,
        [softmax_cross_entropy_forward, softmax_cross_entropy_backward];
    bias_gradient: sums::bias_gradient, [bias_gradient_parts, bias_gradient];
    partial_sums: partial_sums::in_order,
        [bias_gradient_parts, batch_norm_mean_parts, batch_norm_variance_parts, batch_norm_backward_parts];
    batch_norm_forward: sums::batch_norm_forward,
        [batch_norm_mean_parts, batch_norm_mean, batch_norm_variance_parts, batch_norm_variance, batch_norm_forward];
    batch_norm_evaluation: sums::batch_norm_evaluation, [batch_norm_evaluation];
    batch_norm_backward: sums::batch_norm_backward,
        [batch_norm_backward_parts, batch_norm_backward_sums, batch_norm_backward];
}

/// The `extern "C" __global__` functions of the sources.
fn kernels() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "cu") {
            let text = std::fs::read_to_string(path).unwrap();
            for declaration in text.split("extern \"C\" __global__").skip(1) {
                let (_, named) = declaration.split_once("void ").unwrap();
                names.insert(named.split('(').next().unwrap().to_string());
            }
        }
    }
    names
}
