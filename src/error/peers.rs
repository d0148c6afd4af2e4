//! What can go wrong with the other processes of a job.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A process of the job that is gone or no longer answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LostPeer {
    /// Its rank.
    pub rank: usize,
    /// Its host's name as it gave it; empty where it was never heard.
    pub host: String,
    /// The last step that it reported.
    pub step: u64,
    /// The last collective operation that it reported, e.g. `reduce bucket 3`; empty before the first.
    pub collective: String,
    /// How it was lost.
    pub how: Loss,
}

/// How a process was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// Its connection closed without a goodbye: it died, or its machine or the network did.
    Closed {
        /// The system's reason.
        reason: String,
    },
    /// Its connection is open, but nothing came for this long: it is frozen, or its machine or the network is gone.
    Silent {
        /// Seconds since it was last heard.
        seconds: f64,
    },
    /// The job makes no progress and this process is furthest behind.
    Stalled {
        /// Seconds since its last progress.
        seconds: f64,
    },
    /// It said goodbye while the others still needed it.
    Left {
        /// The exit code that it announced.
        exit: u8,
    },
    /// It takes part in another collective operation than the others.
    OutOfStep {
        /// What the others do.
        expected: String,
        /// What it does.
        found: String,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { reason } => write!(f, "its connection closed ({reason})"),
            Self::Silent { seconds } => write!(f, "it has been silent for {seconds:.1} s"),
            Self::Stalled { seconds } => {
                write!(
                    f,
                    "nobody has got on for {seconds:.1} s, and nobody is further behind"
                )
            }
            Self::Left { exit } => write!(f, "it ended with exit code {exit}"),
            Self::OutOfStep { expected, found } => {
                write!(f, "it is out of step: expected {expected}, found {found}")
            }
        }
    }
}

impl fmt::Display for LostPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, step, how, .. } = self;
        let known = |text: &str| {
            if text.is_empty() {
                "none".into()
            } else {
                text.to_string()
            }
        };
        let (host, collective) = (known(&self.host), known(&self.collective));
        write!(
            f,
            "rank {rank} (host {host}) is lost: {how}; last step {step}, last collective {collective}; \
             --resume goes on from the newest checkpoint"
        )
    }
}

/// Processes that were expected and did not come in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AbsentPeers {
    /// The ranks that are missing, ascending.
    pub ranks: Vec<usize>,
    /// How many processes the job has.
    pub size: usize,
    /// Seconds waited.
    pub seconds: f64,
    /// Where they were to come, `host:port`.
    pub meeting: String,
    /// What else came there, or what the attempts to get there ended with; may be empty.
    pub note: String,
}

impl fmt::Display for AbsentPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.ranks.iter().map(usize::to_string).collect();
        write!(
            f,
            "expected {} processes to meet at {}, but {} {} did not come within {:.0} s",
            self.size,
            self.meeting,
            if names.len() == 1 { "rank" } else { "ranks" },
            names.join(", "),
            self.seconds
        )?;
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        write!(
            f,
            "; look at their output, and set VERYDEEP_COORDINATOR=host:port where rank 0 is elsewhere"
        )
    }
}
