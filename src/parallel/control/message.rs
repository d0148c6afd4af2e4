//! What processes of a job say to each other.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::launcher::Launch;
use crate::error::{AbsentPeers, Error, LostPeer, Mismatch};

/// What a process says of itself on joining.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Its rank.
    pub rank: usize,
    /// How many processes it expects.
    pub size: usize,
    /// Its number on its machine.
    pub local_rank: usize,
    /// Its machine's name.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// The equivalence class: every field must be the same for all.
    pub class: Value,
    /// Whether rank 0 goes on with processes of another class (`--allow-drift`).
    pub allow_drift: bool,
    /// Identities (UUIDs) of the devices that it claims; empty for the CPU.
    pub devices: Vec<String>,
    /// Rank 0: what it hands to all, e.g. NCCL's unique id.
    pub blob: Bytes,
}

impl Hello {
    /// Of this process, with an empty blob and no drift allowed.
    pub fn new(launch: &Launch, class: Value, devices: Vec<String>) -> Self {
        Self {
            rank: launch.rank,
            size: launch.size,
            local_rank: launch.local_rank,
            host: host_name(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            class,
            allow_drift: false,
            devices,
            blob: Bytes::default(),
        }
    }
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unnamed".into(),
        name => name.into(),
    }
}

/// One process of a job that has met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its machine's name.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// Its number on its machine.
    pub local_rank: usize,
    /// Identities of the devices that it has.
    pub devices: Vec<String>,
}

/// A job that has met; the same for all its processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// By rank.
    pub peers: Vec<Peer>,
    /// What rank 0 hands to all.
    pub blob: Bytes,
    /// The first difference between classes that rank 0 allowed.
    pub drift: Option<Mismatch>,
}

/// A stop that all ranks agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The step that is not begun any more, by anybody.
    pub step: u64,
    /// The rank that asked for it.
    pub rank: usize,
    /// The signal that it got, e.g. `SIGTERM`.
    pub signal: String,
}

/// How far a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The last step begun.
    pub(super) step: u64,
    /// Collective operations begun in the whole run.
    pub(super) collectives: u64,
    /// The last one's name.
    pub(super) collective: String,
}

/// Bytes, written as hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// Why a job cannot start or go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// A process is gone.
    Lost(LostPeer),
    /// Processes did not come.
    Absent(AbsentPeers),
    /// Processes do not fit together.
    Refused(Mismatch),
}

impl Failure {
    /// As the process's error.
    pub(super) fn error(self) -> Error {
        match self {
            Self::Lost(lost) => Error::PeerLost(Box::new(lost)),
            Self::Absent(absent) => Error::PeersAbsent(Box::new(absent)),
            Self::Refused(mismatch) => Error::Invalid(Box::new(mismatch)),
        }
    }
}

/// Everything that is said. A member speaks to the coordinator, which is at rank 0, and it to the members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Message {
    /// Member: who I am. First of all.
    Hello(Box<Hello>),
    /// Coordinator: you are one of mine, wait for the others.
    Heard,
    /// Coordinator: all are here.
    Welcome(Membership),
    /// Both: I am alive, and this far.
    Beat(Progress),
    /// Member: my part of collective operation `sequence`.
    Give {
        /// Counts collective operations of the control link from 0.
        sequence: u64,
        /// What it is for; all ranks must say the same.
        what: String,
        /// The part.
        bytes: Bytes,
        /// How far I am.
        progress: Progress,
    },
    /// Coordinator: all parts by rank.
    Gathered {
        /// Of this operation.
        sequence: u64,
        /// By rank.
        parts: Vec<Bytes>,
    },
    /// Rank 0's member: I am about to begin this step.
    Begin {
        /// The step.
        step: u64,
    },
    /// Member: I was asked to stop.
    Wish {
        /// By this signal.
        signal: String,
    },
    /// Coordinator: steps up to this one may begin.
    Through {
        /// The last of them.
        step: u64,
    },
    /// Coordinator: this step must not begin.
    Halt(Halt),
    /// Rank 0's member: the checkpoint of this step is on disk.
    Commit {
        /// The step.
        step: u64,
    },
    /// Coordinator: the checkpoint of this step is on disk.
    Committed {
        /// The step.
        step: u64,
    },
    /// Member: I am going to end.
    Leave {
        /// With this exit code.
        exit: u8,
    },
    /// Coordinator: all have left.
    Bye {
        /// The job's exit code.
        exit: u8,
    },
    /// Coordinator: it is over.
    Failed(Failure),
}

impl Message {
    /// Its name, for errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Heard => "heard",
            Self::Welcome(_) => "welcome",
            Self::Beat(_) => "beat",
            Self::Give { .. } => "give",
            Self::Gathered { .. } => "gathered",
            Self::Begin { .. } => "begin",
            Self::Wish { .. } => "wish",
            Self::Through { .. } => "through",
            Self::Halt(_) => "halt",
            Self::Commit { .. } => "commit",
            Self::Committed { .. } => "committed",
            Self::Leave { .. } => "leave",
            Self::Bye { .. } => "bye",
            Self::Failed(_) => "failed",
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let text: String = digits
            .map(|digit| char::from(DIGITS[usize::from(digit)]))
            .collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pair = |pair: &[u8]| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.map(Self).ok_or_else(|| {
            serde::de::Error::custom("bytes: expected pairs of hexadecimal digits, found something else")
        })
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}
