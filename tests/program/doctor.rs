//! `verydeep doctor`, on machines with and without what a GPU needs.

use serde_json::Value;

use crate::tool::{command, errors, run_json};

fn check<'a>(said: &'a Value, name: &str) -> &'a Value {
    let checks = said["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name} in {said}"))
}

#[test]
fn the_cpu_always_works() {
    let said = run_json(["doctor", "--device", "cpu", "--full"]);
    assert_eq!(said["ok"], true);
    for name in ["program", "image decoder", "cpu", "cpu training step"] {
        assert_eq!(check(&said, name)["ok"], true, "{said}");
    }
}

#[test]
fn libraries_that_are_no_libraries_are_named_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let lib = folder.path().join("lib/python3.11/site-packages/nvidia/cu13/lib");
    std::fs::create_dir_all(&lib).unwrap();
    for file in ["libcuda.so.1", "libcudnn.so.9"] {
        std::fs::write(lib.join(file), "not an ELF file").unwrap();
    }
    let mut command = command(["doctor", "--device", "cuda", "--json"]);
    let output = command
        .env_remove("VERYDEEP_SIMULATE_CUDA")
        .env("VERYDEEP_CUDA_LIBS", folder.path())
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    if output.status.code() == Some(0) {
        // A machine with a complete CUDA: the broken files were passed over and the system's were taken.
        assert_eq!(said["ok"], true);
        return;
    }
    assert_eq!(output.status.code(), Some(4), "{}", errors(&output));
    assert_eq!(said["ok"], false);
    let detail = |name: &str| check(&said, name)["detail"].as_str().unwrap().to_string();
    assert!(detail("cuDNN").contains("9.2.1 or later"), "{said}");
    assert!(detail("cuDNN").contains(lib.to_str().unwrap()), "{said}");
    assert!(detail("NVRTC").contains("--cuda-libs"), "{said}");
}

#[test]
fn an_impossible_number_of_simulated_devices_is_refused() {
    for devices in ["0", "17", "many", ""] {
        let mut command = command(["doctor"]);
        let output = command.env("VERYDEEP_SIMULATE_CUDA", devices).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
        assert!(errors(&output).contains("from 1 to 16"), "{}", errors(&output));
    }
}
