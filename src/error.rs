//! The one error type. Every variant says what was expected, what was found, where, and what to do;
//! the exit codes are those of the command-line contract.

use std::fmt;
use std::path::{Path, PathBuf};

mod corruption;
mod peers;

pub use corruption::{Corruption, Suspect};
pub use peers::{AbsentPeers, Loss, LostPeer};

/// The result of anything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line asks for something that does not exist or is not built. Exit 2.
    #[error("{0}")]
    Usage(String),

    /// A configuration, a recipe, a file or a data set is not what it must be. Exit 3.
    #[error("{0}")]
    Invalid(Box<Mismatch>),

    /// The operating system refused to read, write or map something. Exit 3.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb: "open", "map", "create" ...
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// One sample of a shard cannot be used. Exit 3 where it ends the run.
    #[error("{0}")]
    Sample(Box<BadSample>),

    /// The device asked for is missing or unhealthy. Exit 4.
    #[error("device {device}: {reason}")]
    Device {
        /// As it was asked for, e.g. `cuda:0`.
        device: String,
        /// What is missing and where it was looked for.
        reason: String,
    },

    /// A library that the device asked for needs is missing or of the wrong version. Exit 4.
    #[error("{0}")]
    Library(Box<UnusableLibrary>),

    /// A device computes or keeps numbers wrongly, and says nothing. Exit 4.
    #[error("{0}")]
    Corrupted(Box<Corruption>),

    /// Memory ran out. Exit 5.
    #[error(
        "out of memory: {what} needs {bytes} bytes; fewer images at a time need less: a smaller --micro-batch, or --batch where a command has no micro-batches"
    )]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// How much of it.
        bytes: u64,
    },

    /// The forecast says that memory would run out; nothing was started. Exit 5.
    #[error(
        "not enough memory on {device}: micro-batches of {micro_batch} need {needed} bytes, {free} are free; {}",
        match fits {
            Some(fits) => format!("--micro-batch {fits} fits"),
            None => "no --micro-batch of this batch fits".into(),
        }
    )]
    DoesNotFit {
        /// The device.
        device: String,
        /// Images per micro-batch.
        micro_batch: usize,
        /// Bytes on the device.
        needed: u64,
        /// Bytes that it has left.
        free: u64,
        /// The largest micro-batch of the batch that fits.
        fits: Option<usize>,
    },

    /// The loss or a gradient is NaN or infinite; no weight was changed by this step. Exit 6.
    #[error("step {step}: {what} is not finite; the weights of step {} are in the last checkpoint; a lower --lr usually helps", step - 1)]
    NonFinite {
        /// The step that would have been taken, counted from 1.
        step: u64,
        /// "loss" or the name of the parameter whose gradient it is.
        what: String,
    },

    /// What a network computes of an image is NaN or infinite. Exit 6.
    #[error(
        "{network}: expected finite values of {image}, found NaN or infinity; the weights are finite, sums of them are not: \
         use another checkpoint"
    )]
    Overflow {
        /// Which network.
        network: String,
        /// Which image, and where it lies.
        image: String,
    },

    /// The loss stayed at ln(classes) for as long as `--stop-if-stuck` allows. Exit 6.
    #[error(
        "step {step}: the loss has stayed near ln(classes) = {chance:.3} for {epochs} epochs; the network does not learn (try --init he or --batch-norm)"
    )]
    Stuck {
        /// Finished steps.
        step: u64,
        /// ln(classes).
        chance: f64,
        /// How long it has lasted.
        epochs: u64,
    },

    /// Bad samples were found where none are allowed. Exit 7.
    #[error("{bad} of {samples} samples are bad, the first of them: {first}")]
    BadData {
        /// How many.
        bad: u64,
        /// Out of how many.
        samples: u64,
        /// The first of them.
        first: Box<BadSample>,
    },

    /// A process of the job is gone or no longer answers. Exit 8.
    #[error("{0}")]
    PeerLost(Box<LostPeer>),

    /// Processes of the job did not come in time. Exit 8.
    #[error("{0}")]
    PeersAbsent(Box<AbsentPeers>),

    /// A run folder cannot be written: a checkpoint, the log, the recipe. What was there is untouched. Exit 9.
    #[error(
        "{source}; {}",
        if *begun {
            format!("earlier checkpoints are untouched: make room or mend the disk, then --resume {}", run.display())
        } else {
            format!("make room or mend the disk, then start {} again", run.display())
        }
    )]
    Unsaved {
        /// The run folder.
        run: PathBuf,
        /// Whether it has a recipe, and so can be resumed.
        begun: bool,
        /// What was tried, on which file, and the system's reason.
        source: Box<Error>,
    },

    /// Another process writes this folder. Exit 3.
    #[error(
        "{} is in use by {}; two processes cannot write one folder: wait for that one, or stop it",
        path.display(),
        match holder {
            Some(holder) => holder.to_string(),
            None => "another process".into(),
        }
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who it is, where that is known.
        holder: Option<Holder>,
    },

    /// Another replica of the run failed. Exit as that one's.
    #[error("replica {rank}: {message}")]
    Replica {
        /// Which one.
        rank: usize,
        /// What it says.
        message: String,
        /// The exit code of its error.
        exit: u8,
    },

    /// A signal stopped the run after a good checkpoint; it can be resumed. Exit 75.
    #[error("stopped by {signal} after step {step}; resume with --resume {}", run.display())]
    Stopped {
        /// `SIGTERM`, `SIGINT` or `SIGUSR1`.
        signal: &'static str,
        /// Finished steps, all of them in the checkpoint.
        step: u64,
        /// The run folder.
        run: PathBuf,
    },
}

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// The name of its machine.
    pub host: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// Expected against found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mismatch {
    /// What was looked at: a file, a flag, a layer.
    pub what: String,
    /// What it must be.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.what, self.expected, self.found
        )?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// A shared library that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableLibrary {
    /// Its name as NVIDIA spells it.
    pub library: String,
    /// The versions that would do.
    pub wanted: String,
    /// What is there instead, or "none".
    pub found: String,
    /// Where it was looked for, in that order.
    pub searched: Vec<String>,
    /// What to do about it.
    pub hint: String,
}

impl UnusableLibrary {
    /// Everything but the name.
    pub fn reason(&self) -> String {
        let Self {
            wanted, found, hint, ..
        } = self;
        let searched = self.searched.join(", ");
        format!("expected {wanted}, found {found}; searched {searched}; {hint}")
    }
}

impl fmt::Display for UnusableLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.library, self.reason())
    }
}

/// One sample that cannot be used, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BadSample {
    /// File name of the shard, or the path of the image where it comes from a folder.
    pub shard: String,
    /// Byte offset of the image in that file.
    pub offset: u64,
    /// Key of the sample; empty where it is no single one.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.reason)
    }
}

impl BadSample {
    /// Where it lies. What has no key and begins its file is all of it.
    pub fn place(&self) -> String {
        let Self {
            shard, offset, key, ..
        } = self;
        match (key.as_str(), offset) {
            ("", 0) => shard.clone(),
            ("", offset) => format!("{shard} at byte {offset}"),
            (key, offset) => format!("{shard} at byte {offset}, key {key}"),
        }
    }
}

impl Error {
    /// "`what`: expected `expected`, found `found`", with nothing to advise.
    pub fn invalid(what: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::invalid_hint(what, expected, found, "")
    }

    /// "`what`: expected `expected`, found `found`; `hint`".
    pub fn invalid_hint(
        what: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Self::Invalid(Box::new(Mismatch {
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            hint: hint.to_string(),
        }))
    }

    /// For `map_err`: the action and the path that an I/O error belongs to.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err`: what the system refuses becomes [`Error::Unsaved`] of this run folder; other errors stay.
    pub fn unsaved(run: &Path) -> impl FnOnce(Self) -> Self {
        let run = run.to_path_buf();
        move |error| match error {
            Self::Io { .. } => Self::Unsaved {
                begun: run.join("recipe.toml").is_file(),
                source: Box::new(error),
                run,
            },
            error => error,
        }
    }

    /// For `map_err`: says of which file a network is that overflows; other errors stay.
    pub fn of_network(path: &Path) -> impl FnOnce(Self) -> Self {
        let network = path.display().to_string();
        move |error| match error {
            Self::Overflow { image, .. } => Self::Overflow { network, image },
            error => error,
        }
    }

    /// The process exit code that scripts rely on.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Invalid(_) | Self::Io { .. } | Self::InUse { .. } | Self::Sample(_) => 3,
            Self::Device { .. } | Self::Library(_) | Self::Corrupted(_) => 4,
            Self::OutOfMemory { .. } | Self::DoesNotFit { .. } => 5,
            Self::NonFinite { .. } | Self::Overflow { .. } | Self::Stuck { .. } => 6,
            Self::BadData { .. } => 7,
            Self::PeerLost(_) | Self::PeersAbsent(_) => 8,
            Self::Unsaved { .. } => 9,
            Self::Replica { exit, .. } => *exit,
            Self::Stopped { .. } => 75,
        }
    }
}
