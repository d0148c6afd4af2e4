//! Where to compute: from the flags to a back end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use super::args::{ComputeArgs, ConvAlgo, PrecisionArg, Reduce};
use crate::backend::cpu::{ConvAlgorithm, Cpu};
use crate::backend::cuda::launch::Element;
use crate::backend::cuda::libraries::Libraries;
use crate::backend::cuda::plans::PlanFile;
use crate::backend::cuda::{Cuda, Drift, Options};
use crate::backend::{Backend as _, Precision};
use crate::bench::{self, StepShape, StepTimes};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::parallel::control::Control;
use crate::parallel::{Initial, Replicas, on_devices, on_one_device};
use crate::plan::{Rates, Reduction};
use crate::train::event::Observer;
use crate::train::{Ended, Job, train, train_on_devices};

/// The devices that this program computes on.
pub(super) enum Device {
    /// The host's processor with all threads; and its threads dealt to replicas, where there are several.
    Cpu(Cpu, Vec<Cpu>),
    /// GPUs: a back end for each replica, on one device or on one each.
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

/// `on_replicas!(device, backends => expression)`: likewise with a back end for each replica.
macro_rules! on_replicas {
    ($device:expr, $backends:ident => $then:expr) => {
        match $device {
            $crate::cli::compute::Device::Cpu(all, each) => {
                let $backends = $crate::cli::compute::replicas(all, each).backends;
                $then
            }
            $crate::cli::compute::Device::Cuda($backends) => $then,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeviceName {
    /// `cpu`.
    Cpu,
    /// `cuda:N`, `cuda:N-M` or `cuda:N,M`; `cuda` is the first.
    Cuda(Vec<usize>),
}

impl DeviceName {
    /// Reads a name. A device may stand in it once.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let unknown = || {
            Error::Usage(format!(
                "--device: expected cpu, cuda, cuda:N, cuda:N-M or cuda:N,M, found '{name}'"
            ))
        };
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let list = match name.strip_prefix("cuda").ok_or_else(unknown)? {
            "" => "0",
            rest => rest.strip_prefix(':').ok_or_else(unknown)?,
        };
        let number = |text: &str| text.parse::<usize>().ok();
        let mut ordinals = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = number(first).zip(number(last)).ok_or_else(unknown)?;
            if first > last || last >= MOST_DEVICES {
                return Err(unknown());
            }
            ordinals.extend(first..=last);
        }
        let mut distinct = ordinals.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < ordinals.len() {
            return Err(Error::Usage(format!(
                "--device: expected each device once, found '{name}'; --replicas R puts several replicas on one device"
            )));
        }
        Ok(Self::Cuda(ordinals))
    }

    /// The one device, for what is not split.
    pub(super) fn single(name: &str) -> Result<Self> {
        match Self::parse(name)? {
            Self::Cuda(ordinals) if ordinals.len() > 1 => Err(Error::Usage(format!(
                "--device: expected one device, found '{name}'; only train, eval and reproduce use several"
            ))),
            one => Ok(one),
        }
    }

    /// How many devices it names.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Cpu => 1,
            Self::Cuda(ordinals) => ordinals.len(),
        }
    }
}

/// More than any machine has: what is larger is a mistake.
const MOST_DEVICES: usize = 1024;

/// Replicas: as said, or one for each of `devices`, which `name` stands for.
pub(super) fn replicas_on(name: &str, devices: usize, said: Option<usize>) -> Result<usize> {
    match (devices, said) {
        (1, said) => Ok(said.unwrap_or(1)),
        (devices, None) => Ok(devices),
        (devices, Some(replicas)) if replicas == devices => Ok(replicas),
        (devices, Some(replicas)) => Err(Error::Usage(format!(
            "--replicas: expected {devices}, one for each device of --device {name}, found {replicas}"
        ))),
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
            DeviceName::Cuda(ordinals) => {
                let libraries = Libraries::load(&library_folders(folders))?;
                let each = match ordinals[..] {
                    [ordinal] => vec![ordinal; replicas],
                    _ => ordinals,
                };
                let each = each
                    .into_iter()
                    .map(|ordinal| Cuda::open(ordinal, libraries, options));
                let each = each.collect::<Result<Vec<_>>>()?;
                same_model(&each)?;
                Ok(Self::Cuda(each))
            }
        }
    }
}

/// Refuses replicas that would not compute the same to the bit.
fn same_model(devices: &[Cuda]) -> Result<()> {
    let name = |cuda: &Cuda| format!("cuda:{}", cuda.facts().ordinal);
    match devices.iter().find(|cuda| cuda.class() != devices[0].class()) {
        None => Ok(()),
        Some(other) => Err(Error::Device {
            device: name(other),
            reason: format!(
                "it is {}, and {} is {}: replicas compute on devices of one model",
                other.class(),
                name(&devices[0]),
                devices[0].class()
            ),
        }),
    }
}

impl Device {
    /// Trains on all replicas, with those of other processes where there is a way to them.
    pub(super) fn train(
        &self,
        control: Option<&Arc<Control>>,
        job: Job,
        observer: &mut dyn Observer,
    ) -> Result<Ended> {
        match self {
            Self::Cpu(all, each) => train(replicas(all, each), job, observer),
            Self::Cuda(each) if self.devices() > 1 || control.is_some() => {
                // Whatever found the driver has looked for NCCL, too.
                train_on_devices(each, Libraries::load(&[])?, control, job, observer)
            }
            Self::Cuda(each) => train(replicas(&each[0], each), job, observer),
        }
    }

    /// Times training steps of all replicas.
    pub(super) fn train_steps(
        &self,
        network: &Network,
        reduction: Reduction,
        shape: StepShape,
    ) -> Result<StepTimes> {
        let weights = bench::weights(network);
        let initial = Initial {
            weights: &weights,
            momentum: &[],
        };
        match self {
            Self::Cpu(all, each) => {
                let members = on_one_device(replicas(all, each), network, initial)?;
                bench::train_steps(members, network, shape)
            }
            Self::Cuda(each) if self.devices() > 1 => {
                let libraries = Libraries::load(&[])?;
                let members = on_devices(each, libraries, reduction, None, network, initial)?;
                bench::train_steps(members, network, shape)
            }
            Self::Cuda(each) => {
                let members = on_one_device(replicas(&each[0], each), network, initial)?;
                bench::train_steps(members, network, shape)
            }
        }
    }

    /// What tells its devices from all others of a machine.
    pub(super) fn identities(&self) -> Vec<String> {
        match self {
            Self::Cpu(..) => Vec::new(),
            Self::Cuda(each) => each.iter().map(|cuda| cuda.facts().uuid.clone()).collect(),
        }
    }

    /// How many devices there are.
    pub(super) fn devices(&self) -> usize {
        match self {
            Self::Cpu(..) => 1,
            Self::Cuda(each) => {
                let first = each[0].facts().ordinal;
                if each.iter().all(|cuda| cuda.facts().ordinal == first) {
                    1
                } else {
                    each.len()
                }
            }
        }
    }

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
        DeviceName::single(self.device())?;
        self.open_for(self.device(), 1)
    }

    /// To how many replicas images are dealt: as was said, or one for each device.
    pub(super) fn dealt(&self) -> Result<usize> {
        let device = self.device();
        match replicas_on(device, DeviceName::parse(device)?.count(), self.replicas()?)? {
            0 => Err(Error::Usage("--replicas: expected at least 1, found 0".into())),
            replicas => Ok(replicas),
        }
    }

    /// The device, or several, opened for replicas that are dealt images.
    pub(super) fn open_dealt(&self) -> Result<Device> {
        self.open_for(self.device(), self.dealt()?)
    }

    /// A device or several, for `replicas`.
    pub(super) fn open_for(&self, device: &str, replicas: usize) -> Result<Device> {
        let options = Options {
            precision: self.precision(),
            graphs: self.cuda_graph,
        };
        let folders = self.cuda_libs.as_deref();
        Device::open(
            device,
            replicas,
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

    /// How replicas add their gradients.
    pub(super) fn reduction(&self) -> Reduction {
        match self.reduce {
            None | Some(Reduce::Exact) => Reduction::Exact,
            Some(Reduce::Nccl) => Reduction::Nccl,
        }
    }

    /// The algorithm of the CPU's convolutions.
    pub(super) fn convolution(&self) -> ConvAlgorithm {
        match self.conv_algo {
            None | Some(ConvAlgo::Auto) => ConvAlgorithm::Auto,
            Some(ConvAlgo::Winograd4) => ConvAlgorithm::Winograd4,
            Some(ConvAlgo::Winograd2) => ConvAlgorithm::Winograd2,
            Some(ConvAlgo::Direct) => ConvAlgorithm::Direct,
        }
    }

    /// Threads: as said, or all cores.
    pub(super) fn threads(&self) -> Result<usize> {
        check_threads(self.threads)
    }

    /// Replicas, where one number of them was said.
    pub(super) fn replicas(&self) -> Result<Option<usize>> {
        match self.replicas[..] {
            [] => Ok(None),
            [replicas] => Ok(Some(replicas)),
            _ => Err(Error::Usage(format!(
                "--replicas: expected one number, found {:?}",
                self.replicas
            ))),
        }
    }

    /// Refuses to split what one replica does.
    pub(super) fn check(&self) -> Result<()> {
        match self.replicas()? {
            None | Some(1) => Ok(()),
            Some(replicas) => Err(Error::Usage(format!(
                "--replicas: expected 1, found {replicas}; only train, eval, reproduce, plan, bench scale and bench reduce take several"
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
