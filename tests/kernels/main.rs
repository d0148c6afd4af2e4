//! Every kernel of `kernels/` against plain loops over its stated equation: fresh random shapes and values, views at any
//! address, guards around every buffer; on the simulated device the bytes that it moves, too. On a real one
//! (VERYDEEP_TEST_DEVICE, as `tools/gpu-check` says it) nobody counts bytes, and what needs that is skipped, aloud.

#[path = "../common/device.rs"]
mod under_test;

#[path = "../common/draw.rs"]
#[expect(dead_code, reason = "tests/backend.rs uses the rest")]
mod draw;

mod channels;
mod columns;
mod device;
mod dropout;
mod element;
mod elementwise;
mod images;
mod moved;
mod numbers;
mod partial_sums;
mod sums;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use device::{Bench, traffic};
use element::{Bf16, kernel};

/// `subject: module::function, [kernels] each [kernels]`: a test for each subject, which must launch those kernels, and
/// one for all, whose kernels must be those of `kernels/*.cu`. Where there are kernels after `each`, they exist for each
/// type of elements, and so does the function.
macro_rules! judge {
    ($($subject:ident: $module:ident::$function:ident, [$($kernel:ident),*] $(each [$($each:ident),+])?;)+) => {
        mod on_the_simulated_device {
            use super::*;

            $(#[test]
            fn $subject() {
                let kernels = named(&[$(stringify!($kernel)),*], &[$($(stringify!($each)),+)?]);
                launches(&kernels, |bench| run!(bench, $module::$function $(each [$($each),+])?));
            })+

            #[test]
            fn kernels_move_what_they_state() {
                let mut bench = Bench::new();
                if bench.counts {
                    moved::bytes_moved(&mut bench);
                } else {
                    skip("kernels_move_what_they_state", "a real device counts no bytes");
                }
            }
        }

        #[test]
        fn no_kernel_is_left_out() {
            let judged = [$(named(&[$(stringify!($kernel)),*], &[$($(stringify!($each)),+)?])),+];
            assert_eq!(judged.concat().into_iter().collect::<BTreeSet<_>>(), kernels());
        }
    };
}

/// Calls a judge, or one of each type of elements.
macro_rules! run {
    ($bench:ident, $module:ident::$function:ident) => {
        $module::$function($bench)
    };
    ($bench:ident, $module:ident::$function:ident each $kernels:tt) => {{
        $module::$function::<f32>($bench);
        $module::$function::<Bf16>($bench);
    }};
}

judge! {
    relu: elementwise::relu, [] each [relu_forward];
    masked_gradients: elementwise::masked_gradients, [] each [relu_backward, dropout_backward_masked];
    tree_add: elementwise::tree_add, [tree_add];
    update_parameters: elementwise::update_parameters, [update_parameters];
    update_statistics: elementwise::update_statistics, [update_statistics];
    is_finite: elementwise::is_finite, [is_finite];
    fold: elementwise::fold, [fold];
    bf16: elementwise::bf16, [fp32_to_bf16, bf16_to_fp32];
    dropout: dropout::dropout, [] each [dropout_forward, dropout_backward];
    max_pool: images::max_pool, [] each [max_pool_forward, max_pool_backward];
    layouts: images::layouts,
        [nhwc_from_nchw, nhwc_from_nchw_f32_bf16, nhwc_from_nchw_bf16_f32, nhwc_from_nchw_bf16,
         nchw_from_nhwc, nchw_from_nhwc_f32_bf16, nchw_from_nhwc_bf16_f32, nchw_from_nhwc_bf16,
         fold_nhwc, fold_nhwc_bf16];
    finish_input: images::finish_input, [] each [finish_input];
    windows: images::windows, [] each [windows];
    average_pool: images::average_pool, [] each [average_pool];
    lrn: channels::lrn, [] each [lrn_forward, lrn_backward];
    softmax_cross_entropy: channels::softmax_cross_entropy,
        [] each [softmax_cross_entropy_forward, softmax_cross_entropy_backward];
    bias_gradient: sums::bias_gradient, [bias_gradient] each [bias_gradient_parts];
    partial_sums: partial_sums::in_order,
        [] each [bias_gradient_parts, batch_norm_mean_parts, batch_norm_variance_parts, batch_norm_backward_parts];
    batch_norm_forward: sums::batch_norm_forward,
        [batch_norm_mean, batch_norm_variance]
        each [batch_norm_mean_parts, batch_norm_variance_parts, batch_norm_forward];
    batch_norm_evaluation: sums::batch_norm_evaluation, [batch_norm_evaluation] each [batch_norm_forward];
    batch_norm_backward: sums::batch_norm_backward,
        [batch_norm_backward_sums] each [batch_norm_backward_parts, batch_norm_backward];
}

/// Names of kernels: these, and those of each type of elements.
fn named(alone: &[&str], each: &[&str]) -> Vec<String> {
    let of_elements = each
        .iter()
        .flat_map(|name| [kernel::<f32>(name), kernel::<Bf16>(name)]);
    alone.iter().map(ToString::to_string).chain(of_elements).collect()
}

/// Says that a test was skipped, also where the words of a test that passes are kept back.
fn skip(test: &str, why: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// `judge` launches every one of the kernels: where launches are counted, that is checked.
fn launches(kernels: &[String], judge: impl FnOnce(&mut Bench)) {
    let mut bench = Bench::new();
    if !bench.counts {
        return judge(&mut bench);
    }
    let before: Vec<_> = kernels.iter().map(|kernel| traffic(kernel)).collect();
    judge(&mut bench);
    for (kernel, before) in kernels.iter().zip(before) {
        assert!(traffic(kernel)[0] > before[0], "{kernel} was not launched");
    }
}

/// The `extern "C" __global__` functions of the sources, those that macros declare among them.
fn kernels() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "cu") {
            for declaration in preprocessed(&path).split("extern \"C\" __global__").skip(1) {
                let (_, named) = declaration.split_once("void ").unwrap();
                names.insert(named.split('(').next().unwrap().trim().to_string());
            }
        }
    }
    names
}

fn preprocessed(source: &Path) -> String {
    let mut command = Command::new("g++");
    let output = command
        .args(["-E", "-P", "-x", "c++"])
        .arg(source)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", source.display());
    String::from_utf8(output.stdout).unwrap()
}
