//! Several processes as one job: who they are, how they meet, and how each learns at once that another is gone.
//!
//! Processes form a star around rank 0: every other rank keeps one TCP connection to it. Nothing here moves gradients;
//! what goes over the star is small: a unique id, losses, folds, heartbeats.
//!
//! | File | What it does |
//! |---|---|
//! | `launcher` | which process of which job this is, from the environment |
//! | `message`, `wire` | what is said, and its frames |
//! | `member`, `coordinator/`, `node` | what is answered: state machines without I/O, and what a process has of them |
//! | `link/` | the only place with sockets and threads: drives a node, and [`Control`], what the trainer holds |
//! | `simulated` | a seeded network for the machines, with delay, loss, crashes, freezes and clock jumps (tests) |
//!
//! **Times** are those that a process was awake: a process that was stopped, or whose clock jumped, does not take the
//! others to have been silent meanwhile.

use std::time::Duration;

mod attention;
mod coordinator;
mod launcher;
mod link;
mod member;
mod message;
mod node;
#[cfg(test)]
mod simulated;
mod wire;

pub use launcher::{Environment, Launch, Launcher, Meeting};
pub use link::Control;
pub(crate) use message::host_name;
pub use message::{Bytes, Halt, Hello, Membership, Peer};

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Until all processes have met; then those absent are named.
    pub join: Duration,
    /// Until a process that is not heard counts as lost.
    pub silence: Duration,
    /// Between two heartbeats.
    pub beat: Duration,
    /// Until a new connection has said who it is.
    pub hello: Duration,
    /// Until a job in which no rank reports progress counts as hung, and the rank furthest behind as lost; never where
    /// it is `None`.
    pub stall: Option<Duration>,
    /// How many steps ahead of rank 0 are released. With 0 a job stops at the first step that nobody has begun, and
    /// each step waits for one message from rank 0; with more nobody waits, and a job runs that many steps longer.
    pub ahead: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            join: Duration::from_secs(120),
            silence: Duration::from_secs(10),
            beat: Duration::from_secs(1),
            hello: Duration::from_secs(5),
            stall: None,
            ahead: 0,
        }
    }
}

/// Reads what comes on a connection of the job with `token`, as a process does: the names of the messages, and why it
/// would be closed, if so.
pub fn heard(parts: &[&[u8]], token: u64) -> (Vec<&'static str>, Option<String>) {
    let mut decoder = wire::Decoder::new(token);
    let mut names = Vec::new();
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next() {
                Ok(Some(message)) => names.push(message.name()),
                Ok(None) => break,
                Err(error) => return (names, Some(error.to_string())),
            }
        }
    }
    (names, None)
}

/// How much longer than rank 0 the others wait for the meeting: its verdict names more than they know.
const GRACE: Duration = Duration::from_secs(5);
