//! Which process of which job this is, as the launcher's environment says.
//!
//! `torchrun`, Open MPI's `mpirun` and Slurm's `srun` are recognised, in this order: the innermost first, because
//! `mpirun` inside of a Slurm job sees Slurm's variables too. `VERYDEEP_RANK`, `VERYDEEP_SIZE` and
//! `VERYDEEP_COORDINATOR` say the same by hand and come before them. Without any of these a process is alone.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

mod slurm;
#[cfg(test)]
mod tests;
mod variables;

use variables::{Variables, missing};

/// A process's environment.
pub type Environment = BTreeMap<String, String>;

/// Who started the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Nobody: there is one process.
    Solo,
    /// `torchrun`.
    Torchrun,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// Slurm's `srun`.
    Slurm,
    /// A person or a script, with `VERYDEEP_RANK` and `VERYDEEP_SIZE`.
    ByHand,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Solo => "no launcher",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "mpirun",
            Self::Slurm => "srun",
            Self::ByHand => "VERYDEEP_RANK",
        })
    }
}

/// Where the processes of a job meet: rank 0 listens there, on the first of `ports` that is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Name or address of rank 0's host.
    pub host: String,
    /// Candidates, in the order in which they are tried. The others find out which it is.
    pub ports: Vec<u16>,
}

/// How many ports are tried where nobody said which.
const CANDIDATES: u16 = 8;

/// Where derived ports begin, and how many there are: below those that Linux gives to outgoing connections.
const DERIVED: (u16, u16) = (20_000, 10_000);

impl Meeting {
    /// A few ports from `first` on.
    fn from_port(host: String, first: u16) -> Self {
        let first = first.min(u16::MAX - CANDIDATES);
        Self {
            host,
            ports: (first..first + CANDIDATES).collect(),
        }
    }

    /// Ports that follow from the job's name, where the launcher gives none.
    fn derived(host: String, job: &str) -> Self {
        let (first, count) = DERIVED;
        let slots = u64::from(count / CANDIDATES);
        let slot = u16::try_from(token(job) % slots).unwrap_or_default();
        Self::from_port(host, first + slot * CANDIDATES)
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.ports.as_slice()) {
            (host, []) => f.write_str(host),
            (host, [port]) => write!(f, "{host}:{port}"),
            (host, [first, .., last]) => write!(f, "{host}:{first}..{last}"),
        }
    }
}

/// This process's place in its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Number of this process, `0..size`.
    pub rank: usize,
    /// How many processes the job has.
    pub size: usize,
    /// Number of this process among those on its machine: by default the GPU that it takes.
    pub local_rank: usize,
    /// How many processes of the job this machine has.
    pub local_size: usize,
    /// Where they meet.
    pub coordinator: Meeting,
    /// Who started them.
    pub launcher: Launcher,
    /// Name of the job, the same for all its processes and for no other job on these machines.
    pub job: String,
}

impl Launch {
    /// As this process's environment says.
    pub fn from_env() -> Result<Self> {
        let pairs = std::env::vars_os().filter_map(|(name, value)| {
            let pair = (name.into_string().ok()?, value.into_string().ok()?);
            Some(pair)
        });
        Self::from_environment(&pairs.collect())
    }

    /// As `environment` says. An error names the variable that is missing or makes no sense.
    pub fn from_environment(environment: &Environment) -> Result<Self> {
        let variables = Variables::new(environment);
        let launch = if variables.has("VERYDEEP_RANK") || variables.has("VERYDEEP_SIZE") {
            Self::by_hand(variables)?
        } else if variables.has("RANK") {
            Self::torchrun(variables)?
        } else if variables.has("OMPI_COMM_WORLD_RANK") {
            Self::open_mpi(variables)?
        } else if variables.has("SLURM_PROCID") && variables.has("SLURM_STEP_NUM_TASKS") {
            slurm::launch(variables)?
        } else {
            refuse_others(variables)?;
            Self::solo()
        };
        let launch = match variables.meeting()? {
            Some(coordinator) => Self {
                coordinator,
                ..launch
            },
            None => launch,
        };
        launch.checked()
    }

    /// One process alone.
    pub fn solo() -> Self {
        Self {
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
            coordinator: Meeting {
                host: LOOPBACK.into(),
                ports: Vec::new(),
            },
            launcher: Launcher::Solo,
            job: "solo".into(),
        }
    }

    fn by_hand(variables: Variables<'_>) -> Result<Self> {
        let by = Launcher::ByHand;
        let (rank, size) = (
            variables.number("VERYDEEP_RANK", by)?,
            variables.number("VERYDEEP_SIZE", by)?,
        );
        let meeting = match variables.meeting()? {
            Some(meeting) => meeting,
            None if size == 1 => Self::solo().coordinator,
            None => return Err(missing("VERYDEEP_COORDINATOR", by)),
        };
        // Processes that meet on the loopback interface are all on this machine.
        let here = meeting.host == LOOPBACK;
        let local = |name, all| {
            if here && !variables.has(name) {
                Ok(all)
            } else {
                variables.number(name, by)
            }
        };
        Ok(Self {
            rank,
            size,
            local_rank: local("VERYDEEP_LOCAL_RANK", rank)?,
            local_size: local("VERYDEEP_LOCAL_SIZE", size)?,
            job: format!("by hand at {meeting}"),
            coordinator: meeting,
            launcher: by,
        })
    }

    /// The store of torchrun's agent, or of a worker, may own `MASTER_PORT`; ours come after it.
    fn torchrun(variables: Variables<'_>) -> Result<Self> {
        let by = Launcher::Torchrun;
        let host = variables.text("MASTER_ADDR", by)?;
        let port: u16 = variables.number("MASTER_PORT", by)?;
        let run = variables.get("TORCHELASTIC_RUN_ID").unwrap_or_default();
        let restart = variables.get("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        Ok(Self {
            rank: variables.number("RANK", by)?,
            size: variables.number("WORLD_SIZE", by)?,
            local_rank: variables.number("LOCAL_RANK", by)?,
            local_size: variables.number("LOCAL_WORLD_SIZE", by)?,
            job: format!("torchrun {run} {host}:{port} restart {restart}"),
            coordinator: Meeting::from_port(host, port.saturating_add(1)),
            launcher: by,
        })
    }

    /// Open MPI says nothing of rank 0's host: it is this one where all processes are here, else it is taken to be
    /// mpirun's own, which is right unless the host file leaves that one out.
    fn open_mpi(variables: Variables<'_>) -> Result<Self> {
        let by = Launcher::OpenMpi;
        let size = variables.number("OMPI_COMM_WORLD_SIZE", by)?;
        let local_size = variables.number("OMPI_COMM_WORLD_LOCAL_SIZE", by)?;
        let name = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"].map(|name| variables.get(name));
        let job = format!("mpirun {}", name[0].or(name[1]).unwrap_or_default());
        let host = if size == local_size {
            Some(LOOPBACK)
        } else {
            variables.get("OMPI_MCA_orte_hnp_uri").and_then(first_address)
        };
        let coordinator = match (variables.meeting()?, host) {
            (Some(meeting), _) => meeting,
            (None, Some(host)) => Meeting::derived(host.into(), &job),
            (None, None) => return Err(missing("VERYDEEP_COORDINATOR", by)),
        };
        Ok(Self {
            rank: variables.number("OMPI_COMM_WORLD_RANK", by)?,
            size,
            local_rank: variables.number("OMPI_COMM_WORLD_LOCAL_RANK", by)?,
            local_size,
            coordinator,
            launcher: by,
            job,
        })
    }

    /// Refuses numbers that contradict each other.
    fn checked(self) -> Result<Self> {
        let names = variables::names(self.launcher);
        let (rank, size) = (self.rank, self.size);
        let below = |what: &str, value: usize, bound: usize| {
            if value < bound {
                return Ok(());
            }
            let expected = format!("a number below {bound}");
            Err(variables::wrong(what, &expected, value, self.launcher))
        };
        below(names.rank, rank, size)?;
        below(names.local_rank, self.local_rank, self.local_size)?;
        below(names.local_size, self.local_size, size + 1)?;
        Ok(self)
    }

    /// What processes of this job recognise each other by. No secret: it keeps jobs apart, not enemies out.
    pub fn token(&self) -> u64 {
        token(&self.job)
    }
}

/// Where processes of one machine meet.
pub(super) const LOOPBACK: &str = "127.0.0.1";

fn token(job: &str) -> u64 {
    let hash = Sha256::digest(job.as_bytes());
    hash.iter()
        .take(8)
        .fold(0, |token, byte| token << 8 | u64::from(*byte))
}

/// The first IPv4 address of Open MPI's `jobid;tcp://a,b:port;tcp6://...`.
fn first_address(uri: &str) -> Option<&str> {
    let (_, addresses) = uri.split_once("tcp://")?;
    addresses
        .split([',', ':', ';'])
        .next()
        .filter(|address| !address.is_empty())
}

/// Other launchers start many processes too; each would take itself to be alone.
fn refuse_others(variables: Variables<'_>) -> Result<()> {
    for (name, launcher) in [
        ("PMI_SIZE", "an MPI other than Open MPI"),
        ("WORLD_SIZE", "a launcher that sets no RANK"),
    ] {
        if variables.get(name).is_some_and(|size| size.trim() != "1") {
            return Err(Error::invalid_hint(
                format_args!("the environment variable {name}"),
                "torchrun, srun, Open MPI's mpirun, or no launcher",
                launcher,
                "say who this process is with VERYDEEP_RANK, VERYDEEP_SIZE and VERYDEEP_COORDINATOR=host:port, \
                 or unset the variable",
            ));
        }
    }
    Ok(())
}
