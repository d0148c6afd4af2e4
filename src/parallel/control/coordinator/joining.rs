//! Who may sit down.

use std::time::Duration;

use serde_json::Value;

use super::{Action, Connection, Coordinator, Guest, Phase, Seat};
use crate::error::{AbsentPeers, Loss, Mismatch};
use crate::parallel::control::message::{Failure, Hello, Membership, Message, Peer, Progress};

/// Connections that may be open without having said hello; more close the oldest.
const STRANGERS: usize = 64;

impl Coordinator {
    pub(super) fn accepted(&mut self, now: Duration, connection: Connection) {
        self.guests.insert(connection, Guest::Stranger(now));
        let waiting = self.guests.iter().filter_map(|(connection, guest)| match guest {
            Guest::Stranger(since) => Some((*since, *connection)),
            Guest::Rank(_) => None,
        });
        let oldest = waiting.clone().min();
        if let (true, Some((_, oldest))) = (waiting.count() > STRANGERS, oldest) {
            self.stranger(oldest, "more connections came than were looked at".into());
        }
    }

    /// Closes a connection that is none of ours.
    pub(super) fn stranger(&mut self, connection: Connection, reason: String) {
        self.strangers.count += 1;
        self.strangers.last = reason;
        self.close(connection);
    }

    pub(super) fn hello(&mut self, now: Duration, connection: Connection, hello: Hello) {
        if self.phase != Phase::Joining {
            return self.late(connection, &hello);
        }
        if let Some(mismatch) = self.conflict(&hello) {
            // The newcomer has no seat, and is told too.
            let refused = Failure::Refused(mismatch);
            self.actions
                .push(Action::Send(connection, Message::Failed(refused.clone())));
            return self.fail(refused);
        }
        let rank = hello.rank;
        if let Some(before) = self.seats[rank].take() {
            self.close(before.connection); // the same process comes again
        }
        self.guests.insert(connection, Guest::Rank(rank));
        self.seats[rank] = Some(Seat {
            connection,
            hello,
            heard: now,
            progress: Progress::default(),
            progressed: now,
            left: None,
        });
        self.actions.push(Action::Send(connection, Message::Heard));
        if self.seats.iter().all(Option::is_some) {
            self.welcome(now);
        }
    }

    /// A hello after all had met. From a process that has a seat it means that its connection was lost on the way.
    fn late(&mut self, connection: Connection, hello: &Hello) {
        let seat = self.seats.get(hello.rank).and_then(Option::as_ref);
        if seat.is_some_and(|seat| is_same_process(&seat.hello, hello)) {
            let reason = "it lost its connection and came again".into();
            self.lose(hello.rank, Loss::Closed { reason });
        }
        let failure = match &self.phase {
            Phase::Failed(failure) => failure.clone(),
            Phase::Joining | Phase::Running | Phase::Done => Failure::Refused(self.twice(hello)),
        };
        self.turn_away(connection, failure);
    }

    fn turn_away(&mut self, connection: Connection, failure: Failure) {
        self.actions
            .push(Action::Send(connection, Message::Failed(failure)));
        self.close(connection);
    }

    /// All are here.
    fn welcome(&mut self, now: Duration) {
        self.phase = Phase::Running;
        for seat in self.seats.iter_mut().flatten() {
            (seat.heard, seat.progressed) = (now, now);
        }
        self.round.parts = vec![None; self.seats.len()];
        let membership = self.membership();
        self.tell(&Message::Welcome(membership));
    }

    fn membership(&self) -> Membership {
        let hellos = || self.seats.iter().flatten().map(|seat| &seat.hello);
        let first = hellos().next();
        Membership {
            peers: hellos()
                .map(|hello| Peer {
                    host: hello.host.clone(),
                    pid: hello.pid,
                    local_rank: hello.local_rank,
                    devices: hello.devices.clone(),
                })
                .collect(),
            blob: first.map(|first| first.blob.clone()).unwrap_or_default(),
            drift: first.and_then(|first| hellos().find_map(|hello| class_conflict(first, hello))),
        }
    }

    /// Why `hello` cannot be one of this job, if so.
    fn conflict(&self, hello: &Hello) -> Option<Mismatch> {
        let size = self.seats.len();
        let who = |what: &str| format!("{what} of rank {} on host {}", hello.rank, hello.host);
        if hello.size != size {
            return Some(mismatch(
                who("the number of processes"),
                size,
                hello.size,
                "start all processes with one launcher",
            ));
        }
        let Some(place) = self.seats.get(hello.rank) else {
            return Some(mismatch(
                who("the rank"),
                format!("a number below {size}"),
                hello.rank,
                "",
            ));
        };
        if place
            .as_ref()
            .is_some_and(|seat| !is_same_process(&seat.hello, hello))
        {
            return Some(self.twice(hello));
        }
        let others = self
            .seats
            .iter()
            .flatten()
            .map(|seat| &seat.hello)
            .filter(|other| other.rank != hello.rank);
        others
            .clone()
            .find_map(|other| device_conflict(other, hello))
            .or_else(|| others.clone().find_map(|other| version_conflict(other, hello)))
            .or_else(|| {
                let first = others.clone().next()?;
                let allowed = first.allow_drift || hello.allow_drift;
                class_conflict(first, hello).filter(|_| !allowed)
            })
    }

    /// A second process of a rank.
    fn twice(&self, hello: &Hello) -> Mismatch {
        let seated = self.seats.get(hello.rank).and_then(Option::as_ref);
        let known = seated.map_or("none".into(), |seat| place(&seat.hello));
        mismatch(
            format!("rank {}", hello.rank),
            format!("one process, {known}"),
            format!("another, {}", place(hello)),
            "a second launch of the same job, or a launcher that gives a rank twice",
        )
    }

    /// Names those who did not come when the time is over.
    pub(super) fn check_absent(&mut self, now: Duration) {
        let waited = now.saturating_sub(self.began.unwrap_or(now));
        if self.phase != Phase::Joining || waited <= self.settings.join {
            return;
        }
        let empty = self.seats.iter().enumerate().filter(|(_, seat)| seat.is_none());
        let note = match self.strangers.count {
            0 => String::new(),
            count => format!(
                "{count} other connections came there, the last: {}",
                self.strangers.last
            ),
        };
        let absent = AbsentPeers {
            ranks: empty.map(|(rank, _)| rank).collect(),
            size: self.seats.len(),
            seconds: waited.as_secs_f64(),
            meeting: self.meeting.clone(),
            note,
        };
        self.fail(Failure::Absent(absent));
    }

    /// Somebody gives up while others are awaited.
    pub(super) fn leave_early(&mut self, rank: usize, exit: u8) {
        self.lose(rank, Loss::Left { exit });
    }
}

fn is_same_process(one: &Hello, other: &Hello) -> bool {
    (&one.host, one.pid) == (&other.host, other.pid)
}

fn place(hello: &Hello) -> String {
    format!("process {} on host {}", hello.pid, hello.host)
}

fn mismatch(what: String, expected: impl ToString, found: impl ToString, hint: &str) -> Mismatch {
    Mismatch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
        hint: hint.into(),
    }
}

/// Two processes claim one device.
fn device_conflict(one: &Hello, other: &Hello) -> Option<Mismatch> {
    let shared = one.devices.iter().find(|device| other.devices.contains(device))?;
    (one.host == other.host).then(|| {
        mismatch(
            format!("device {shared} on host {}", one.host),
            format!("one rank, {}", one.rank),
            format!("rank {} too", other.rank),
            "give every process of a machine its own --device, or one process several --replicas",
        )
    })
}

fn version_conflict(one: &Hello, other: &Hello) -> Option<Mismatch> {
    (one.version != other.version).then(|| {
        mismatch(
            format!(
                "the program's version of rank {} on host {}",
                other.rank, other.host
            ),
            format!("{} as rank {} has", one.version, one.rank),
            &other.version,
            "run the same program everywhere",
        )
    })
}

/// The first field in which the classes of two processes differ.
fn class_conflict(one: &Hello, other: &Hello) -> Option<Mismatch> {
    let (field, expected, found) = first_difference(&one.class, &other.class)?;
    Some(mismatch(
        format!(
            "the equivalence class of rank {} on host {}, field {field}",
            other.rank, other.host
        ),
        format!("{expected} as rank {} has", one.rank),
        found,
        "the weights would not be the same to the bit; --allow-drift goes on all the same",
    ))
}

/// Path of the first field that differs, and both values.
fn first_difference<'a>(one: &'a Value, other: &'a Value) -> Option<(String, &'a Value, &'a Value)> {
    if one == other {
        return None;
    }
    if let (Value::Object(fields), Value::Object(others)) = (one, other) {
        let names = fields
            .keys()
            .chain(others.keys().filter(|name| !fields.contains_key(*name)));
        for name in names {
            let [a, b] = [fields, others].map(|object| object.get(name).unwrap_or(&Value::Null));
            if let Some((path, a, b)) = first_difference(a, b) {
                let dot = if path.is_empty() { "" } else { "." };
                return Some((format!("{name}{dot}{path}"), a, b));
            }
        }
    }
    Some((String::new(), one, other))
}
