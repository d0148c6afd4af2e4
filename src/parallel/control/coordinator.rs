//! What rank 0 does for all: seats them, passes on what they give, decides when to stop, and notices who is gone.
//!
//! Pure: [`Coordinator::on`] takes what happened and the time, and returns what to do. Rank 0's own member is one
//! member among the others, on a connection inside of the process.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Settings;
use super::attention::Attention;
use super::message::{Bytes, Failure, Halt, Hello, Message, Progress};
use crate::error::{Loss, LostPeer};

mod joining;
mod rounds;
#[cfg(test)]
mod tests;
mod watch;

/// A connection's number; never used twice.
pub(super) type Connection = u64;

/// What happens to the coordinator.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Somebody connected.
    Accepted(Connection),
    /// Somebody says something.
    Received(Connection, Message),
    /// A connection is gone, or spoke another language.
    Closed(Connection, String),
    /// Time passes.
    Tick,
}

/// What the coordinator wants done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Say this.
    Send(Connection, Message),
    /// Close it once everything is sent.
    Close(Connection),
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    /// Has not said hello, since this time.
    Stranger(Duration),
    /// This rank.
    Rank(usize),
}

/// A rank's place.
#[derive(Debug)]
struct Seat {
    connection: Connection,
    hello: Hello,
    heard: Duration,
    progress: Progress,
    progressed: Duration,
    left: Option<u8>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Joining,
    Running,
    /// Everybody has said goodbye.
    Done,
    Failed(Failure),
}

/// A collective operation that not all have given their part of.
#[derive(Debug, Default)]
struct Round {
    sequence: u64,
    what: String,
    parts: Vec<Option<Bytes>>,
}

/// What came that was not one of ours.
#[derive(Debug, Default)]
struct Strangers {
    count: u64,
    last: String,
}

/// Rank 0's side of the star.
#[derive(Debug)]
pub(super) struct Coordinator {
    settings: Settings,
    meeting: String,
    clock: Attention,
    began: Option<Duration>,
    beaten: Duration,
    phase: Phase,
    guests: BTreeMap<Connection, Guest>,
    seats: Vec<Option<Seat>>,
    strangers: Strangers,
    round: Round,
    /// The last step that may begin.
    through: Option<u64>,
    wish: Option<(usize, String)>,
    halt: Option<Halt>,
    actions: Vec<Action>,
}

impl Coordinator {
    /// Of a job of `size` processes that meet at `meeting`.
    pub(super) fn new(settings: Settings, meeting: String, size: usize) -> Self {
        Self {
            clock: Attention::new(settings.beat),
            settings,
            meeting,
            began: None,
            beaten: Duration::ZERO,
            phase: Phase::Joining,
            guests: BTreeMap::new(),
            seats: std::iter::repeat_with(|| None).take(size).collect(),
            strangers: Strangers::default(),
            round: Round::default(),
            through: None,
            wish: None,
            halt: None,
            actions: Vec::new(),
        }
    }

    /// Whether there is nothing left to do but to close connections.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed(_))
    }

    /// Takes what happened at `now`; returns what to do, in this order.
    pub(super) fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let now = self.clock.look(now);
        self.began.get_or_insert(now);
        match event {
            Event::Accepted(connection) => self.accepted(now, connection),
            Event::Received(connection, message) => self.received(now, connection, message),
            Event::Closed(connection, reason) => self.closed(connection, reason),
            Event::Tick => self.tick(now),
        }
        std::mem::take(&mut self.actions)
    }

    fn received(&mut self, now: Duration, connection: Connection, message: Message) {
        match (self.guests.get(&connection).copied(), message) {
            (Some(Guest::Stranger(_)), Message::Hello(hello)) => self.hello(now, connection, *hello),
            (Some(Guest::Stranger(_)), other) => {
                self.stranger(connection, format!("it began with {}", other.name()));
            }
            (Some(Guest::Rank(rank)), message) => self.said(now, rank, message),
            (None, _) => {}
        }
    }

    /// A seated rank says something.
    fn said(&mut self, now: Duration, rank: usize, message: Message) {
        if let Some(seat) = self.seats[rank].as_mut() {
            seat.heard = now;
        }
        match (&self.phase, message) {
            (Phase::Done | Phase::Failed(_), _) => {}
            (Phase::Joining | Phase::Running, Message::Beat(progress)) => self.progress(now, rank, progress),
            (Phase::Joining | Phase::Running, Message::Leave { exit }) => self.leave(rank, exit),
            (
                Phase::Running,
                Message::Give {
                    sequence,
                    what,
                    bytes,
                    progress,
                },
            ) => {
                self.progress(now, rank, progress);
                self.give(rank, sequence, what, bytes);
            }
            (Phase::Running, Message::Wish { signal }) => {
                self.wish.get_or_insert((rank, signal));
            }
            (Phase::Running, Message::Begin { step }) if rank == 0 => self.begin(step),
            (Phase::Running, Message::Commit { step }) if rank == 0 => {
                self.tell(&Message::Committed { step })
            }
            (_, message) => {
                let expected = "what a member says at this point".into();
                self.out_of_step(rank, expected, message.name().into());
            }
        }
    }

    fn closed(&mut self, connection: Connection, reason: String) {
        match self.guests.get(&connection).copied() {
            Some(Guest::Stranger(_)) => self.stranger(connection, reason),
            Some(Guest::Rank(rank)) => {
                self.guests.remove(&connection);
                self.gone(rank, reason);
            }
            None => {}
        }
    }

    /// A rank's connection closed. While others are awaited it may come again.
    fn gone(&mut self, rank: usize, reason: String) {
        let left = self.seats[rank].as_ref().is_some_and(|seat| seat.left.is_some());
        match self.phase {
            Phase::Joining => self.seats[rank] = None,
            Phase::Running if !left => self.lose(rank, Loss::Closed { reason }),
            Phase::Running | Phase::Done | Phase::Failed(_) => {}
        }
    }

    fn out_of_step(&mut self, rank: usize, expected: String, found: String) {
        self.lose(rank, Loss::OutOfStep { expected, found });
    }

    /// The job ends because of `rank`.
    fn lose(&mut self, rank: usize, how: Loss) {
        let lost = self.seats[rank].as_ref().map(|seat| LostPeer {
            rank,
            host: seat.hello.host.clone(),
            step: seat.progress.step,
            collective: seat.progress.collective.clone(),
            how,
        });
        if let Some(lost) = lost {
            self.fail(Failure::Lost(lost));
        }
    }

    /// The job ends; everybody is told.
    fn fail(&mut self, failure: Failure) {
        if !self.is_over() {
            self.tell(&Message::Failed(failure.clone()));
            self.phase = Phase::Failed(failure);
            self.close_all();
        }
    }

    /// Says it to every rank.
    fn tell(&mut self, message: &Message) {
        let seats = self.seats.iter().flatten();
        let connected = seats.filter(|seat| self.guests.contains_key(&seat.connection));
        self.actions
            .extend(connected.map(|seat| Action::Send(seat.connection, message.clone())));
    }

    fn close(&mut self, connection: Connection) {
        if self.guests.remove(&connection).is_some() {
            self.actions.push(Action::Close(connection));
        }
    }

    fn close_all(&mut self) {
        for (connection, _) in std::mem::take(&mut self.guests) {
            self.actions.push(Action::Close(connection));
        }
    }
}
