//! `verydeep doctor`: what this machine has, and what a device would need.

use serde::Serialize;
use serde_json::json;

use super::args::{DoctorArgs, DoctorDevice};
use super::compute::{check_threads, library_folders};
use super::output::{print_json, say};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::device::{DeviceFacts, OLDEST_CAPABILITY, devices};
use crate::backend::cuda::image::cache_folder;
use crate::backend::cuda::libraries::{Libraries, Library};
use crate::backend::cuda::{Cuda, Options};
use crate::bench::{self, StepShape, infer_steps, train_steps};
use crate::data::decode::DECODER;
use crate::error::Result;
use crate::network::{Config, Spec};
use crate::parallel::{Initial, Replicas, on_one_device};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
    /// Whether the asked device cannot do without it.
    #[serde(skip)]
    needed: bool,
}

impl Check {
    fn new(name: impl Into<String>, needed: bool, outcome: Result<String, String>) -> Self {
        Self {
            name: name.into(),
            ok: outcome.is_ok(),
            detail: outcome.unwrap_or_else(|why| why),
            needed,
        }
    }
}

/// Exit 4 when something that the asked device needs is missing.
pub(super) fn doctor(args: &DoctorArgs) -> Result<u8> {
    let libraries = Libraries::load(&library_folders(args.cuda_libs.as_deref()))?;
    let has_driver = libraries.get(Library::Driver).is_ok();
    let device = args.device.unwrap_or(if has_driver {
        DoctorDevice::Cuda
    } else {
        DoctorDevice::Cpu
    });
    let mut checks = cpu_checks(args.full);
    if has_driver || device == DoctorDevice::Cuda {
        checks.extend(cuda_checks(libraries, device == DoctorDevice::Cuda, args.full));
    } else {
        let why = "no NVIDIA driver on this machine: everything runs on the CPU back end";
        checks.push(Check::new("cuda", false, Err(why.into())));
    }
    let ok = checks.iter().all(|check| check.ok || !check.needed);
    if args.json {
        print_json(&json!({ "ok": ok, "checks": checks }));
    } else {
        report(&checks, ok, device);
    }
    Ok(if ok { 0 } else { 4 })
}

fn cpu_checks(full: bool) -> Vec<Check> {
    let version = format!("{} ({})", env!("CARGO_PKG_VERSION"), env!("VERYDEEP_COMMIT"));
    let mut checks = vec![
        Check::new("program", true, Ok(version)),
        Check::new("image decoder", true, Ok(DECODER.into())),
        Check::new("cpu", true, cpu().map_err(|why| why.to_string())),
    ];
    if full {
        let trained = check_threads(None)
            .and_then(Cpu::new)
            .and_then(|cpu| small_step(&cpu));
        checks.push(Check::new(
            "cpu training step",
            true,
            trained.map_err(|why| why.to_string()),
        ));
    }
    checks
}

fn cpu() -> Result<String> {
    let threads = check_threads(None)?;
    Ok(format!("{threads} threads, {}", Cpu::new(threads)?.class()))
}

/// Trains and evaluates a small network on synthetic images.
fn small_step<B: Backend>(backend: &B) -> Result<String> {
    let spec = Spec {
        classes: 10,
        crop: 32,
        width: 0.125,
        fc: 32,
        ..Spec::paper(Config::A)
    };
    let network = spec.build()?;
    let weights = bench::weights(&network);
    let initial = Initial {
        weights: &weights,
        momentum: &[],
    };
    let shape = StepShape {
        batch: 8,
        micro_batch: 4,
        steps: 2,
    };
    let members = on_one_device(Replicas::one(backend), &network, initial)?;
    let train = train_steps(members, &network, shape)?;
    let infer = infer_steps(backend, &network, 8, 2)?;
    Ok(format!(
        "a small network A: {:.0} images/s trained, {:.0} evaluated",
        train.median_rate(),
        infer.median_rate()
    ))
}

fn cuda_checks(libraries: &Libraries, needed: bool, full: bool) -> Vec<Check> {
    let library = |library: Library| {
        let outcome = match libraries.get(library) {
            Ok(found) => Ok(format!("{} at {}", found.version, found.path.display())),
            Err(why) => Err(why.reason()),
        };
        Check::new(library.name(), needed && !library.is_optional(), outcome)
    };
    let mut checks: Vec<Check> = Library::ALL.into_iter().map(library).collect();
    let cache = cache_folder().map(|folder| folder.display().to_string());
    let no_cache = || "HOME is not set: kernels are compiled at every start".to_string();
    checks.push(Check::new("kernel cache", false, cache.ok_or_else(no_cache)));
    if libraries.get(Library::Driver).is_ok() {
        match devices(libraries) {
            Err(why) => checks.push(Check::new("devices", needed, Err(why.to_string()))),
            Ok(found) if found.is_empty() => {
                checks.push(Check::new("devices", needed, Err("the driver shows none".into())));
            }
            Ok(found) => {
                for facts in &found {
                    checks.push(device_check(facts, needed));
                    if full {
                        let trained = Cuda::open(facts.ordinal, libraries, Options::default())
                            .and_then(|cuda| small_step(&cuda));
                        let name = format!("cuda:{} training step", facts.ordinal);
                        checks.push(Check::new(name, needed, trained.map_err(|why| why.to_string())));
                    }
                }
            }
        }
    }
    checks
}

fn device_check(facts: &DeviceFacts, needed: bool) -> Check {
    let (major, minor) = facts.compute_capability;
    let detail = format!(
        "{}, compute capability {major}.{minor}, {:.1} GiB, {} multiprocessors",
        facts.name,
        facts.memory_bytes as f64 / f64::from(1 << 30),
        facts.multiprocessors
    );
    let outcome = if facts.compute_capability >= OLDEST_CAPABILITY {
        Ok(detail)
    } else {
        let (major, minor) = OLDEST_CAPABILITY;
        Err(format!("{detail}: expected at least {major}.{minor}"))
    };
    Check::new(format!("cuda:{}", facts.ordinal), needed, outcome)
}

fn report(checks: &[Check], ok: bool, device: DoctorDevice) {
    for check in checks {
        let mark = match (check.ok, check.needed) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "absent ",
        };
        say(format_args!("{mark} {}: {}", check.name, check.detail));
    }
    let device = device.name();
    say(if ok {
        format!("--device {device} has all that it needs")
    } else {
        format!("--device {device} would not work: see above what is missing")
    });
}

impl DoctorDevice {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}
