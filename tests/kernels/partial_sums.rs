//! Partial sums of columns, with any number of slices: the launchers give short slices to small shapes, and the runs of
//! 64 rows that large ones have would never be summed in a test. To the bit.

use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{CudaModule, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{Ptx, result, sys};
use verydeep::backend::cuda::launch::Launcher;

use super::columns::{Cut, RUN_ROWS};
use super::device::{Bench, View};
use super::element::{Element, held, kernel};
use super::numbers::numbers;

/// A file of `kernels/`, compiled as the program does it.
fn module(launcher: &Launcher, file: &str) -> Arc<CudaModule> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let text = |name: &str| CString::new(std::fs::read(folder.join(name)).unwrap()).unwrap();
    let headers = [c"columns.cuh", c"common.cuh", c"element.cuh"];
    let texts = headers.map(|name| text(name.to_str().unwrap()));
    let (name, source) = (CString::new(file).unwrap(), text(file));
    let (mut program, mut size) = (ptr::null_mut(), 0);
    // SAFETY: all strings end with NUL and live until the program is made, which copies them.
    let code = unsafe {
        let pointers = texts.each_ref().map(|text| text.as_ptr());
        let names = headers.map(|name| name.as_ptr());
        let [source, name] = [&source, &name].map(|text| text.as_ptr());
        sys::nvrtcCreateProgram(
            &raw mut program,
            source,
            name,
            3,
            pointers.as_ptr(),
            names.as_ptr(),
        )
        .result()
        .unwrap();
        result::compile_program(program, &["--fmad=false"]).unwrap();
        sys::nvrtcGetCUBINSize(program, &raw mut size).result().unwrap();
        let mut code = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast())
            .result()
            .unwrap();
        result::destroy_program(program).unwrap();
        code
    };
    launcher
        .stream()
        .context()
        .load_module(Ptx::from_binary(code))
        .unwrap()
}

/// Launches a kernel on random blocks: `inputs`, rows, channels, slices, and `count` partial sums of every slice.
fn launch(
    bench: &mut Bench,
    cut: Cut,
    (module, kernel): (&Arc<CudaModule>, &str),
    inputs: &[u64],
    count: usize,
) -> View<f64> {
    let parts = bench.output(count * cut.slices * cut.channels);
    let blocks = bench.draw.integer(1..=2 * cut.slices) as u32;
    let function = module.load_function(kernel).unwrap();
    let stream = Arc::clone(bench.launcher().stream());
    let (rows, to) = (cut.rows as u64, parts.at());
    let [channels, slices] = [cut.channels, cut.slices].map(|size| size as u32);
    let mut launch = stream.launch_builder(&function);
    inputs.iter().for_each(|address| {
        launch.arg(address);
    });
    launch.arg(&rows).arg(&channels).arg(&slices).arg(&to);
    let shape = LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (256, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the arguments are the kernel's; every view is as long as it wants it.
    unsafe { launch.launch(shape) }.unwrap();
    parts
}

/// Every kernel that makes partial sums.
pub(crate) fn in_order<T: Element>(bench: &mut Bench) {
    let bias = module(bench.launcher(), "bias_gradient.cu");
    let norm = module(bench.launcher(), "batch_norm.cu");
    for slices in [1, 2, 3, 5] {
        // Slices of no run, of whole runs, and of what is left of one.
        let most = 3 * slices * RUN_ROWS;
        for rows in [RUN_ROWS - 1, slices * RUN_ROWS, bench.draw.integer(1..=most)] {
            let channels = bench.draw.integer(1..=40);
            let cut = Cut {
                rows,
                channels,
                slices,
            };
            let what = &format!("{cut:?}");
            let [x, dy] = [0; 2].map(|_| held::<T>(finite(bench, rows * channels)));
            let mean = finite(bench, channels);
            bench.aligned = bench.draw.integer(0..=1) == 0;
            let views = [&x, &dy].map(|values| bench.elements::<T>(values));
            let means = bench.input(&mean);
            let ([x_at, dy_at], mean_at) = (views.each_ref().map(View::at), means.at());
            let centred = |i: usize| x[i] - mean[i % channels];
            let sum = cut.parts(|i| dy[i]);

            let mut sum_of = |module, name: &str, inputs: &[u64], count| {
                launch(bench, cut, (module, &kernel::<T>(name)), inputs, count)
            };
            let parts = sum_of(&bias, "bias_gradient_parts", &[dy_at], 1);
            parts.holds(&sum, what);
            let parts = sum_of(&norm, "batch_norm_mean_parts", &[x_at], 1);
            parts.holds(&cut.parts(|i| x[i]), what);
            let parts = sum_of(&norm, "batch_norm_variance_parts", &[x_at, mean_at], 1);
            parts.holds(&cut.parts(|i| centred(i) * centred(i)), what);
            let parts = sum_of(&norm, "batch_norm_backward_parts", &[x_at, dy_at, mean_at], 2);
            let moment = cut.parts(|i| dy[i] * centred(i));
            parts.holds(&[sum, moment].concat(), what);
            views.iter().for_each(|view| view.unchanged(what));
            means.unchanged(what);
        }
    }
}

/// Numbers of many magnitudes, squares of which are finite, too.
fn finite(bench: &mut Bench, count: usize) -> Vec<f32> {
    let small = |x: f32| if x.abs() < 1e9 { x } else { 1.0 };
    numbers(&mut bench.draw, count).into_iter().map(small).collect()
}
