//! Where to compute: from the flags to a back end.

use std::thread::available_parallelism;

use super::args::ComputeArgs;
use crate::backend::cpu::Cpu;
use crate::error::{Error, Result};

/// The devices that this program computes on.
pub(super) enum Device {
    /// The host's processor.
    Cpu(Cpu),
}

impl Device {
    /// Opens the device by its name.
    pub(super) fn open(name: &str, threads: usize) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu(Cpu::new(threads)?)),
            cuda if cuda == "cuda" || cuda.starts_with("cuda:") => Err(Error::Device {
                device: cuda.into(),
                reason: "this version has no CUDA back end; use --device cpu".into(),
            }),
            other => Err(Error::Usage(format!("--device: expected cpu, found '{other}'"))),
        }
    }
}

impl ComputeArgs {
    /// The device's name.
    pub(super) fn device(&self) -> &str {
        self.device.as_deref().unwrap_or("cpu")
    }

    /// Threads: as said, or all cores.
    pub(super) fn threads(&self) -> Result<usize> {
        check_threads(self.threads)
    }

    /// Refuses what this version does not have.
    pub(super) fn check(&self) -> Result<()> {
        check_replicas(self.replicas.unwrap_or(1))
    }
}

/// Threads: as said, or all cores.
pub(super) fn check_threads(said: Option<usize>) -> Result<usize> {
    match said {
        Some(0) => Err(Error::Usage("--threads: expected at least 1, found 0".into())),
        Some(threads) => Ok(threads),
        None => Ok(available_parallelism().map_or(1, |cores| cores.get())),
    }
}

/// This version trains one replica.
pub(super) fn check_replicas(replicas: usize) -> Result<()> {
    if replicas == 1 {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--replicas: expected 1, found {replicas}; this version does not split the batch"
    )))
}
