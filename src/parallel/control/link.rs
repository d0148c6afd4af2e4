//! The control link of a process: sockets, one thread that drives the machines, and the handle on it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::launcher::{LOOPBACK, Launch, Meeting};
use super::member::{Call, is_good};
use super::message::{Bytes, Halt, Hello, Membership};
use super::{Settings, wire};
use crate::error::{Error, LostPeer, Result};

mod board;
mod dial;
mod driver;
mod poll;
mod socket;
#[cfg(test)]
mod tests;

use board::Board;
use driver::{Command, Driver};
use poll::Waker;
#[cfg(test)]
pub(super) use tests::say;

/// A process's place in a job that has met.
///
/// All ranks call [`all_gather`](Self::all_gather), [`broadcast`](Self::broadcast) and [`barrier`](Self::barrier) in the
/// same order. Every call that waits ends with [`Error::PeerLost`] when a process is lost. A handle that is dropped
/// without [`leave`](Self::leave) looks to the others like a process that died.
pub struct Control {
    rank: usize,
    membership: Membership,
    board: Arc<Board>,
    commands: Sender<Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Meets the other processes of the job; waits until all are there, or until one cannot be part of it.
    pub fn join(launch: &Launch, hello: Hello, settings: Settings) -> Result<Self> {
        let listener = match launch.rank {
            0 if launch.size > 1 => Some(listen(&launch.coordinator)?),
            _ => None,
        };
        let board = Arc::new(Board::default());
        let (commands, received) = channel();
        let (waker, woken) = poll::waker().map_err(system("create", "the control link's waker"))?;
        let driver = Driver::new(
            launch,
            hello,
            settings,
            listener,
            Arc::clone(&board),
            (commands.clone(), waker.clone()),
        );
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || driver.run(&received, &woken))
            .map_err(system("start", "the control link's thread"))?;
        let mut control = Self {
            rank: launch.rank,
            membership: Membership {
                peers: Vec::new(),
                blob: Bytes::default(),
                drift: None,
            },
            board,
            commands,
            waker,
            thread: Some(thread),
        };
        control.membership = control.board.wait(|state| state.membership.clone())?;
        Ok(control)
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes the job has.
    pub fn size(&self) -> usize {
        self.membership.peers.len()
    }

    /// Who they are, and what rank 0 handed to all.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Every rank's bytes, by rank; `what` must be the same for all and names the operation in errors.
    pub fn all_gather(&self, what: &'static str, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let most = wire::MOST / 2 / (self.size() + 1);
        if bytes.len() > most {
            return Err(Error::invalid(
                format_args!("what rank {} gives to {what}", self.rank),
                format_args!("at most {most} bytes"),
                bytes.len(),
            ));
        }
        self.board.begin_collective(what);
        self.call(Call::Give {
            what: what.into(),
            bytes,
        });
        let parts = self.board.wait(|state| state.gathered.pop_front())?;
        Ok(parts.into_iter().map(|part| part.0).collect())
    }

    /// Rank 0's bytes; what the others give is not looked at.
    pub fn broadcast(&self, what: &'static str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mine = if self.rank == 0 { bytes } else { Vec::new() };
        let parts = self.all_gather(what, mine)?;
        Ok(parts.into_iter().next().unwrap_or_default())
    }

    /// Waits until all ranks are here.
    pub fn barrier(&self, what: &'static str) -> Result<()> {
        self.all_gather(what, Vec::new()).map(drop)
    }

    /// Before every step: whether all stop before it, and why. The same for all ranks at the same step. `signal` is the
    /// one that this process got, if any.
    pub fn stop_wanted(&self, step: u64, signal: Option<&str>) -> Result<Option<Halt>> {
        if let Some(signal) = signal {
            self.wish_stop(signal);
        }
        if self.rank == 0 {
            self.call(Call::Begin(step));
        }
        self.board.wait(|state| match &state.halt {
            Some(halt) if halt.step <= step => Some(Some(halt.clone())),
            _ if state.through >= Some(step) => Some(None),
            _ => None,
        })
    }

    /// Asks all ranks to stop at the next occasion, as `signal` asked this one. Any thread may call it; only the first
    /// call counts.
    pub fn wish_stop(&self, signal: &str) {
        if self.board.first_wish() {
            self.call(Call::Wish(signal.into()));
        }
    }

    /// Says how far this process is: what the others name if it is lost. Costs a lock that nobody holds for long.
    pub fn beat(&self, step: u64, collective: &'static str) {
        self.board.progress(step, collective);
    }

    /// Rank 0: the checkpoint of `step` is on disk. Call it only then.
    pub fn commit(&self, step: u64) {
        self.call(Call::Commit(step));
    }

    /// Waits until rank 0 has committed the checkpoint of `step`.
    pub fn await_commit(&self, step: u64) -> Result<()> {
        self.board
            .wait(|state| (state.committed >= Some(step)).then_some(()))
    }

    /// The step of the newest checkpoint that rank 0 has committed since this process joined.
    pub fn committed(&self) -> Option<u64> {
        self.board.look(|state| state.committed)
    }

    /// The process that was lost, if one was. Any thread may ask at any time.
    pub fn failure(&self) -> Option<LostPeer> {
        self.board.lost()
    }

    /// Waits until a process is lost, or this one has left (`None`): for a thread that then aborts what hangs.
    pub fn await_failure(&self) -> Option<LostPeer> {
        self.board.await_lost()
    }

    /// Says goodbye with this process's exit code. With 0 or 75 it waits until all have, and returns the job's: 75 if
    /// anybody has 75. Any other code tells the others that this process is lost.
    pub fn leave(mut self, exit: u8) -> Result<u8> {
        self.call(Call::Leave(exit));
        let job = match is_good(exit) {
            true => self.board.wait(|state| state.left),
            false => Ok(exit),
        };
        self.end(Command::End);
        job
    }

    fn call(&self, call: Call) {
        self.command(Command::Call(call));
    }

    fn command(&self, command: Command) {
        // A driver that has ended has said so on the board, where the next wait sees it.
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }

    fn end(&mut self, command: Command) {
        self.command(command);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the board has it.
            let _ = thread.join();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(Command::Abandon);
        }
    }
}

fn system(action: &'static str, what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io {
        action,
        path: what.into(),
        source,
    }
}

/// Listens on the first of the meeting's ports that is free.
fn listen(meeting: &Meeting) -> Result<TcpListener> {
    let hosts: &[&str] = match meeting.host.as_str() {
        LOOPBACK | "localhost" => &[LOOPBACK],
        _ => &["::", "0.0.0.0"],
    };
    let mut refused = Vec::new();
    for port in &meeting.ports {
        for host in hosts {
            match TcpListener::bind((*host, *port)) {
                Ok(listener) => return Ok(listener),
                Err(error) => refused.push(format!("port {port}: {error}")),
            }
        }
    }
    Err(Error::invalid_hint(
        format_args!("the meeting place {meeting} of the job's processes"),
        "a port that is free on rank 0's machine",
        refused.last().map_or("no port", String::as_str),
        "say another with VERYDEEP_COORDINATOR=host:port, the same for all processes",
    ))
}
