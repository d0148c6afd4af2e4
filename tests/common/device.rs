//! The device that tests of the CUDA side run on.

use std::sync::Once;

use verydeep::backend::cuda::libraries::Libraries;

/// A device, and where NVIDIA's libraries are.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    pub(crate) ordinal: usize,
    pub(crate) libraries: &'static Libraries,
    /// Whether it is known to be the simulator's, which counts what is done on it.
    #[allow(dead_code, reason = "only tests/kernels asks")]
    pub(crate) counts: bool,
}

/// One of the simulator, which `cargo build --workspace` puts beside the tests, or a real one where VERYDEEP_TEST_DEVICE
/// names it (`cuda:N`), with NVIDIA's libraries as VERYDEEP_CUDA_LIBS says. `tools/gpu-check` says both.
pub(crate) fn under_test() -> Device {
    static SIMULATOR: Once = Once::new();
    let Ok(device) = std::env::var("VERYDEEP_TEST_DEVICE") else {
        // SAFETY: the variable is set once, and whoever reads it comes here first.
        SIMULATOR.call_once(|| unsafe { std::env::set_var("VERYDEEP_SIMULATE_CUDA", "1") });
        return Device {
            ordinal: 0,
            libraries: Libraries::load(&[]).unwrap(),
            counts: true,
        };
    };
    let number = device.strip_prefix("cuda:");
    let ordinal = number.and_then(|number| number.parse().ok());
    let folders = std::env::var_os("VERYDEEP_CUDA_LIBS").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&folders).collect();
    Device {
        ordinal: ordinal.expect("VERYDEEP_TEST_DEVICE: cuda:N"),
        libraries: Libraries::load(&folders).unwrap(),
        counts: false,
    }
}
