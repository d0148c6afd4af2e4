//! Environment variables, read with errors that name them.

use std::fmt::Display;
use std::str::FromStr;

use super::{Environment, Launcher, Meeting};
use crate::error::{Error, Result};

/// Reads an environment. A variable that is set to nothing counts as not set.
#[derive(Clone, Copy)]
pub(super) struct Variables<'a>(&'a Environment);

impl<'a> Variables<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self(environment)
    }

    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn text(self, name: &str, by: Launcher) -> Result<String> {
        self.get(name)
            .map(str::to_string)
            .ok_or_else(|| missing(name, by))
    }

    pub(super) fn number<T: FromStr>(self, name: &str, by: Launcher) -> Result<T> {
        let value = self.get(name).ok_or_else(|| missing(name, by))?;
        value
            .parse()
            .map_err(|_| wrong(name, "a number that makes sense here", value, by))
    }

    /// `VERYDEEP_COORDINATOR`, where it is said.
    pub(super) fn meeting(self) -> Result<Option<Meeting>> {
        const NAME: &str = "VERYDEEP_COORDINATOR";
        let Some(value) = self.get(NAME) else {
            return Ok(None);
        };
        let parts = value.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().ok().filter(|port| *port != 0)?;
            (!host.is_empty()).then(|| (host.to_string(), port))
        });
        let (host, port) =
            parts.ok_or_else(|| wrong(NAME, "HOST:PORT of rank 0's machine", value, Launcher::ByHand))?;
        Ok(Some(Meeting {
            host,
            ports: vec![port],
        }))
    }
}

/// A variable is not set.
pub(super) fn missing(name: &str, by: Launcher) -> Error {
    wrong(name, "a value", "none", by)
}

/// A variable is set to what it cannot mean.
pub(super) fn wrong(name: &str, expected: &str, found: impl Display, by: Launcher) -> Error {
    let hint = match by {
        Launcher::ByHand | Launcher::Solo => "see docs/cluster.md".to_string(),
        Launcher::Torchrun | Launcher::OpenMpi | Launcher::Slurm => {
            format!(
                "{by} started this process and sets it; VERYDEEP_RANK, VERYDEEP_SIZE and VERYDEEP_COORDINATOR replace it"
            )
        }
    };
    Error::invalid_hint(
        format_args!("the environment variable {name}"),
        expected,
        found,
        hint,
    )
}

/// What a launcher calls the numbers.
pub(super) struct Names {
    pub(super) rank: &'static str,
    pub(super) local_rank: &'static str,
    pub(super) local_size: &'static str,
}

/// What `launcher` calls the numbers.
pub(super) fn names(launcher: Launcher) -> Names {
    let [rank, local_rank, local_size] = match launcher {
        Launcher::Solo | Launcher::ByHand => ["VERYDEEP_RANK", "VERYDEEP_LOCAL_RANK", "VERYDEEP_LOCAL_SIZE"],
        Launcher::Torchrun => ["RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
        Launcher::OpenMpi => [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ],
        Launcher::Slurm => ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"],
    };
    Names {
        rank,
        local_rank,
        local_size,
    }
}
