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
use super::numbers::numbers;

/// A file of `kernels/`, compiled as the program does it.
fn module(launcher: &Launcher, file: &str) -> Arc<CudaModule> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let text = |name: &str| CString::new(std::fs::read(folder.join(name)).unwrap()).unwrap();
    let headers = [c"columns.cuh", c"common.cuh"];
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
            2,
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
    inputs: &[&View<f32>],
    count: usize,
) -> View<f64> {
    let parts = bench.output(count * cut.slices * cut.channels);
    let blocks = bench.draw.integer(1..=2 * cut.slices) as u32;
    let function = module.load_function(kernel).unwrap();
    let stream = Arc::clone(bench.launcher().stream());
    let addresses: Vec<u64> = inputs.iter().map(|view| view.at()).collect();
    let (rows, to) = (cut.rows as u64, parts.at());
    let [channels, slices] = [cut.channels, cut.slices].map(|size| size as u32);
    let mut launch = stream.launch_builder(&function);
    addresses.iter().for_each(|address| {
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
pub(crate) fn in_order(bench: &mut Bench) {
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
            let [x, dy] = [0; 2].map(|_| finite(bench, rows * channels));
            let mean = finite(bench, channels);
            bench.aligned = bench.draw.integer(0..=1) == 0;
            let [x_at, dy_at, mean_at] = [&x, &dy, &mean].map(|values| bench.input(values));
            let centred = |i: usize| x[i] - mean[i % channels];
            let sum = cut.parts(|i| dy[i]);

            let inputs = [&x_at, &mean_at];
            let parts = launch(bench, cut, (&bias, "bias_gradient_parts"), &[&dy_at], 1);
            parts.holds(&sum, what);
            let parts = launch(bench, cut, (&norm, "batch_norm_mean_parts"), &[&x_at], 1);
            parts.holds(&cut.parts(|i| x[i]), what);
            let parts = launch(bench, cut, (&norm, "batch_norm_variance_parts"), &inputs, 1);
            parts.holds(&cut.parts(|i| centred(i) * centred(i)), what);
            let inputs = [&x_at, &dy_at, &mean_at];
            let parts = launch(bench, cut, (&norm, "batch_norm_backward_parts"), &inputs, 2);
            let moment = cut.parts(|i| dy[i] * centred(i));
            parts.holds(&[sum, moment].concat(), what);
            for view in inputs {
                view.unchanged(what);
            }
        }
    }
}

/// Numbers of many magnitudes, squares of which are finite, too.
fn finite(bench: &mut Bench, count: usize) -> Vec<f32> {
    let small = |x: f32| if x.abs() < 1e9 { x } else { 1.0 };
    numbers(&mut bench.draw, count).into_iter().map(small).collect()
}
