//! Several processes that train as one: which of them this is, which devices it takes, and how it meets the others.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::args::TimeoutArgs;
use super::compute::{Device, DeviceName, library_folders, replicas_on};
use super::output::note;
use crate::backend::cuda::device::devices;
use crate::backend::cuda::libraries::Libraries;
use crate::backend::cuda::nccl::UniqueId;
use crate::error::{Error, Result};
use crate::parallel::control::{Bytes, Control, Hello, Launch, Settings};
use crate::plan::Reduction;
use crate::train::Ended;

/// How long no process of a job may get on.
const HANG: Duration = Duration::from_secs(30 * 60);

/// How long a process may take to end once it knows that another one is lost.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// Where this process's replicas are, and how many there are in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// The devices of this process, as `--device` has them.
    pub(super) device: String,
    /// How many these are.
    pub(super) devices: usize,
    /// Processes of the job.
    pub(super) processes: usize,
    /// Replicas of the job.
    pub(super) replicas: usize,
}

impl Placement {
    /// One process with one device.
    pub(super) fn alone(device: &str) -> Self {
        Self {
            device: device.into(),
            devices: 1,
            processes: 1,
            replicas: 1,
        }
    }

    /// Devices of the job.
    pub(super) fn all_devices(&self) -> usize {
        self.devices * self.processes
    }

    /// Refuses a reduction that needs several devices where there is one.
    pub(super) fn check(&self, reduction: Reduction) -> Result<()> {
        if reduction == Reduction::Exact || self.all_devices() > 1 {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "--reduce nccl: expected with several devices, as in --device cuda:0-3, found --device {}",
            self.device
        )))
    }

    /// Replicas of this process.
    pub(super) fn local_replicas(&self) -> usize {
        self.replicas / self.processes
    }
}

/// This process among those that a launcher has started.
pub(super) struct Processes {
    launch: Launch,
    settings: Settings,
}

impl Processes {
    /// As the environment says.
    pub(super) fn from_env(timeouts: &TimeoutArgs) -> Result<Self> {
        let defaults = Settings::default();
        let seconds = |flag: &str, said: Option<f64>, default: Duration, least: Duration| match said {
            None => Ok(default),
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|said| *said >= least)
                .ok_or_else(|| {
                    let least = least.as_secs();
                    Error::Usage(format!(
                        "{flag}: expected at least {least} seconds, found {seconds}"
                    ))
                }),
        };
        let TimeoutArgs {
            peer_timeout,
            hang_timeout,
            join_timeout,
        } = *timeouts;
        let second = Duration::from_secs(1);
        Ok(Self {
            launch: Launch::from_env()?,
            settings: Settings {
                join: seconds("--join-timeout", join_timeout, defaults.join, second)?,
                silence: seconds(
                    "--peer-timeout",
                    peer_timeout,
                    defaults.silence,
                    2 * defaults.beat,
                )?,
                stall: Some(seconds("--hang-timeout", hang_timeout, HANG, second)?),
                ..defaults
            },
        })
    }

    /// Where the replicas are, where all processes were told this `--device` and `--replicas`. `folders` is where NVIDIA's
    /// libraries may be.
    pub(super) fn place(
        &self,
        device: &str,
        replicas: Option<usize>,
        folders: Option<&Path>,
    ) -> Result<Placement> {
        let shown = || devices(Libraries::load(&library_folders(folders))?).map(|all| all.len());
        let local = self.device(device, shown)?;
        let (devices, processes) = (DeviceName::parse(&local)?.count(), self.launch.size);
        Ok(Placement {
            replicas: replicas_on(device, devices * processes, replicas)?,
            device: local,
            devices,
            processes,
        })
    }

    /// Calls `train` with the way to the others, whom it meets first, and tells them how it ends.
    pub(super) fn together(
        &self,
        device: &Device,
        class: &Value,
        allow_drift: bool,
        train: impl FnOnce(Option<&Arc<Control>>) -> Result<Ended>,
    ) -> Result<Ended> {
        let control = self.join(device, class, allow_drift)?;
        let ended = thread::scope(|scope| {
            let (training, ends) = mpsc::channel::<()>();
            if let Some(control) = &control {
                scope.spawn(move || end_when_left_behind(control, &ends));
            }
            let ended = train(control.as_ref());
            drop(training);
            ended
        });
        let exit = match &ended {
            Ok(ended) => ended.error.as_ref().map_or(0, Error::exit_code),
            Err(error) => error.exit_code(),
        };
        // All replicas of this process have ended, and let go of it.
        if let Some(control) = control.and_then(Arc::into_inner) {
            control.leave(exit)?;
        }
        ended
    }

    /// Whether this one writes the run folder.
    pub(super) fn is_first(&self) -> bool {
        self.launch.rank == 0
    }

    /// The devices of this process, where all were told `said`: those of the list, dealt to the processes of a machine;
    /// with `cuda` the one of the process's number on its machine, or the only one that it is shown.
    fn device(&self, said: &str, shown: impl FnOnce() -> Result<usize>) -> Result<String> {
        let Launch {
            size,
            local_rank,
            local_size,
            ..
        } = self.launch;
        if size == 1 {
            return Ok(said.into());
        }
        let refused = |expected: &str| {
            Err(Error::Usage(format!(
                "--device: expected {expected} in a job of {size} processes, {local_size} on this machine \
                 ({}), found {said}",
                self.launch.launcher
            )))
        };
        let list = match DeviceName::parse(said)? {
            DeviceName::Cpu => {
                return refused("cuda, as replicas on the CPU are threads of one process (--replicas)");
            }
            DeviceName::Cuda(list) => list,
        };
        match list[..] {
            _ if said == "cuda" => {
                let only_one = local_rank > 0 && shown()? == 1;
                Ok(format!("cuda:{}", if only_one { 0 } else { local_rank }))
            }
            _ if local_size == 1 => Ok(said.into()),
            _ if list.len() == local_size => Ok(format!("cuda:{}", list[local_rank])),
            _ => refused("cuda, or as many devices as this machine has processes"),
        }
    }

    /// Meets the others, who must have the same `class`; `None` where there are none.
    fn join(&self, device: &Device, class: &Value, allow_drift: bool) -> Result<Option<Arc<Control>>> {
        if self.launch.size == 1 {
            return Ok(None);
        }
        let mut hello = Hello::new(&self.launch, class.clone(), device.identities());
        hello.allow_drift = allow_drift;
        if self.is_first() {
            let id = UniqueId::new(Libraries::load(&[])?)?;
            hello.blob = Bytes(id.to_bytes().to_vec());
        }
        let control = Control::join(&self.launch, hello, self.settings)?;
        if let (true, Some(drift)) = (self.is_first(), &control.membership().drift) {
            note(format_args!("verydeep: --allow-drift: {drift}"));
        }
        Ok(Some(Arc::new(control)))
    }
}

/// Ends the process where another one is lost and this one, until `training` ends, does not: it waits for a device that no
/// longer answers, and whoever started it would wait for ever, too.
fn end_when_left_behind(control: &Control, training: &Receiver<()>) {
    let mut lost: Option<Instant> = None;
    while training.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
        let Some(peer) = control.failure() else { continue };
        let since = *lost.get_or_insert_with(Instant::now);
        if since.elapsed() > LAST_WORDS {
            let error = Error::PeerLost(Box::new(peer));
            note(format_args!("verydeep: {error}; this process hangs and is ended"));
            // SAFETY: takes a number. Handlers of a driver that hangs are not run.
            unsafe { libc::_exit(error.exit_code().into()) };
        }
    }
}
