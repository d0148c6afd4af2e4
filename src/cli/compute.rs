//! Where to compute: from the flags to a back end.

use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use super::args::{ComputeArgs, ConvAlgo, PrecisionArg};
use crate::backend::Precision;
use crate::backend::cpu::{ConvAlgorithm, Cpu};
use crate::backend::cuda::launch::Element;
use crate::backend::cuda::libraries::Libraries;
use crate::backend::cuda::plans::PlanFile;
use crate::backend::cuda::{Cuda, Drift, Options};
use crate::bench;
use crate::error::{Error, Result};
use crate::plan::Rates;
use crate::train::Replicas;

/// The devices that this program computes on.
pub(super) enum Device {
    /// The host's processor with all threads; and its threads dealt to replicas, where there are several.
    Cpu(Cpu, Vec<Cpu>),
    /// One GPU: a back end, or one for each replica.
    Cuda(Vec<Cuda>),
}

/// `on_device!(device, backend => expression)`: the expression with the device's back end. The one place that tells the
/// kinds of device apart.
macro_rules! on_device {
    ($device:expr, $backend:ident => $then:expr) => {
        match $device {
            $crate::cli::compute::Device::Cpu($backend, _) => $then,
            $crate::cli::compute::Device::Cuda(backends) => {
                let $backend = &backends[0];
                $then
            }
        }
    };
}
pub(super) use on_device;

/// `on_replicas!(device, replicas => expression)`: the expression with the device's replicas.
macro_rules! on_replicas {
    ($device:expr, $replicas:ident => $then:expr) => {
        match $device {
            $crate::cli::compute::Device::Cpu(all, each) => {
                let $replicas = $crate::cli::compute::replicas(all, each);
                $then
            }
            $crate::cli::compute::Device::Cuda(each) => {
                let $replicas = $crate::cli::compute::replicas(&each[0], each);
                $then
            }
        }
    };
}
pub(super) use on_replicas;

/// Replicas on `each`, or one on `all` where there are none.
pub(super) fn replicas<'a, B>(all: &'a B, each: &'a [B]) -> Replicas<'a, B> {
    match each {
        [] => Replicas::one(all),
        each => Replicas {
            backends: each,
            combiner: all,
        },
    }
}

/// A device as it is called on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceName {
    /// `cpu`.
    Cpu,
    /// `cuda:N`; `cuda` is the first.
    Cuda(usize),
}

impl DeviceName {
    /// Reads `cpu`, `cuda` or `cuda:N`.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let unknown = || Error::Usage(format!("--device: expected cpu, cuda or cuda:N, found '{name}'"));
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let ordinal = match name.strip_prefix("cuda").ok_or_else(unknown)? {
            "" => 0,
            rest => match rest.strip_prefix(':').ok_or_else(unknown)? {
                several if several.contains(['-', ',']) => {
                    return Err(Error::Usage(format!(
                        "--device: expected one device, found '{name}'; this version does not split the batch"
                    )));
                }
                ordinal => ordinal.parse().map_err(|_| unknown())?,
            },
        };
        Ok(Self::Cuda(ordinal))
    }
}

impl Device {
    /// Opens a device by its name, for `replicas` that share it. `folders` is where NVIDIA's libraries may be.
    pub(super) fn open(
        name: &str,
        replicas: usize,
        options: Options,
        convolution: ConvAlgorithm,
        threads: usize,
        folders: Option<&Path>,
    ) -> Result<Self> {
        match DeviceName::parse(name)? {
            DeviceName::Cpu if options.precision != Precision::Fp32 => Err(Error::Usage(format!(
                "--precision: expected fp32, found {}; the CPU computes in single precision only",
                options.precision.name()
            ))),
            DeviceName::Cpu if options.graphs => Err(Error::Usage(
                "--cuda-graph: expected with --device cuda, found --device cpu".into(),
            )),
            DeviceName::Cpu => {
                let cpu = |threads| Ok::<_, Error>(Cpu::new(threads)?.with_convolution(convolution));
                let dealt = if replicas == 1 { 0 } else { replicas };
                let each = (0..dealt).map(|_| cpu((threads / replicas).max(1)));
                Ok(Self::Cpu(cpu(threads)?, each.collect::<Result<_>>()?))
            }
            DeviceName::Cuda(_) if convolution != ConvAlgorithm::Auto => Err(Error::Usage(format!(
                "--conv-algo: expected auto, found {}; on CUDA devices cuDNN's heuristics choose",
                convolution.name()
            ))),
            DeviceName::Cuda(ordinal) => {
                let libraries = Libraries::load(&library_folders(folders))?;
                let each = (0..replicas).map(|_| Cuda::open(ordinal, libraries, options));
                Ok(Self::Cuda(each.collect::<Result<_>>()?))
            }
        }
    }
}

impl Device {
    /// Computes as a plan file says from now on. Where that cannot be and drift is allowed, says why it is left alone.
    pub(super) fn follow(&self, plans: &PlanFile, drift: Drift) -> Result<Option<Error>> {
        let not_here = || {
            Error::Usage(
                "--plans: expected with --device cuda, found --device cpu; --allow-drift goes on without them".into(),
            )
        };
        match (self, drift) {
            (Self::Cuda(each), _) => each
                .iter()
                .try_fold(None, |_, device| device.follow(plans, drift)),
            (Self::Cpu(..), Drift::Allow) => Ok(Some(not_here())),
            (Self::Cpu(..), Drift::Refuse) => Err(not_here()),
        }
    }

    /// What it reaches, measured now: products in its precision, and copies of its memory.
    pub(super) fn rates(&self, threads: usize) -> Result<Rates> {
        match self {
            Self::Cpu(..) => Ok(bench::rates(threads)),
            Self::Cuda(each) => each[0].measure_rates(),
        }
    }
}

/// Where NVIDIA's libraries are looked for first: as said, or as the variable says, in the manner of PATH.
pub(super) fn library_folders(said: Option<&Path>) -> Vec<PathBuf> {
    match (said, std::env::var_os("VERYDEEP_CUDA_LIBS")) {
        (Some(folder), _) => vec![folder.to_path_buf()],
        (None, Some(folders)) => std::env::split_paths(&folders).collect(),
        (None, None) => Vec::new(),
    }
}

impl ComputeArgs {
    /// The device's name.
    pub(super) fn device(&self) -> &str {
        self.device.as_deref().unwrap_or("cpu")
    }

    /// The device, opened.
    pub(super) fn open(&self) -> Result<Device> {
        let options = Options {
            precision: self.precision(),
            graphs: self.cuda_graph,
        };
        let folders = self.cuda_libs.as_deref();
        Device::open(
            self.device(),
            1,
            options,
            self.convolution(),
            self.threads()?,
            folders,
        )
    }

    /// The arithmetic.
    pub(super) fn precision(&self) -> Precision {
        match self.precision {
            None | Some(PrecisionArg::Fp32) => Precision::Fp32,
            Some(PrecisionArg::Tf32) => Precision::Tf32,
            Some(PrecisionArg::Bf16) => Precision::Bf16,
        }
    }

    /// Bytes of an element of a tensor.
    pub(super) fn element_bytes(&self) -> u64 {
        Element::of(self.precision()).bytes() as u64
    }

    /// The algorithm of the CPU's convolutions.
    pub(super) fn convolution(&self) -> ConvAlgorithm {
        match self.conv_algo {
            None | Some(ConvAlgo::Auto) => ConvAlgorithm::Auto,
            Some(ConvAlgo::Winograd4) => ConvAlgorithm::Winograd4,
            Some(ConvAlgo::Direct) => ConvAlgorithm::Direct,
        }
    }

    /// Threads: as said, or all cores.
    pub(super) fn threads(&self) -> Result<usize> {
        check_threads(self.threads)
    }

    /// Refuses to split what is not a training run.
    pub(super) fn check(&self) -> Result<()> {
        match self.replicas {
            None | Some(1) => Ok(()),
            Some(replicas) => Err(Error::Usage(format!(
                "--replicas: expected 1, found {replicas}; only train, plan and bench scale split the batch"
            ))),
        }
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
