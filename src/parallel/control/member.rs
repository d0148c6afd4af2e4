//! What every process does: finds rank 0, joins, gives and gets, and notices when rank 0 is gone.
//!
//! Pure: [`Member::on`] takes what happened and the time, and returns what to do.

use std::collections::VecDeque;
use std::time::Duration;

use super::Settings;
use super::attention::Attention;
use super::message::{Bytes, Failure, Halt, Hello, Membership, Message, Progress};
use crate::error::{Loss, LostPeer};

mod patience;

/// What happens to a member.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The connection that it asked for is there.
    Connected,
    /// It is not to be had.
    NotConnected(String),
    /// It is gone.
    Closed(String),
    /// The coordinator says something.
    Received(Message),
    /// The process wants something.
    Call(Call),
    /// Time passes.
    Tick,
}

/// What the process wants.
#[derive(Debug, Clone)]
pub(super) enum Call {
    /// To take part in the next collective operation.
    Give {
        /// What for.
        what: String,
        /// Its part.
        bytes: Vec<u8>,
    },
    /// Rank 0: to begin a step.
    Begin(u64),
    /// That all stop.
    Wish(String),
    /// Rank 0: that all know that the checkpoint of a step is on disk.
    Commit(u64),
    /// To say how far it is.
    Progress(Progress),
    /// To end.
    Leave(u8),
}

/// What a member wants done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Connect to this one of the meeting's ports.
    Connect(usize),
    /// Say this to the coordinator.
    Send(Message),
    /// Close the connection once everything is sent.
    Close,
    /// Tell the process.
    Report(Report),
}

/// What the process is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Report {
    /// All are here.
    Joined(Membership),
    /// All parts of the oldest collective operation that has not been reported, by rank.
    Gathered(Vec<Bytes>),
    /// Steps up to this one may begin.
    Through(u64),
    /// This step must not begin.
    Halt(Halt),
    /// The checkpoint of this step is on disk.
    Committed(u64),
    /// It is over.
    Failed(Failure),
    /// This process may end with this code.
    Left(u8),
}

/// Between two rounds through the meeting's ports.
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Tries the next port at this time.
    Seeking(Duration),
    /// Has asked for a connection.
    Connecting,
    /// Has said hello, at this time.
    Greeting(Duration),
    /// Was heard; the others are awaited.
    Waiting,
    /// All are here.
    Running,
    /// Has said goodbye; the others are awaited.
    Leaving,
    /// Nothing happens any more.
    Over,
}

/// One process's side of the star.
#[derive(Debug)]
pub(super) struct Member {
    settings: Settings,
    clock: Attention,
    hello: Hello,
    /// `host:port` to name in errors.
    meeting: String,
    ports: usize,
    port: usize,
    phase: Phase,
    /// When it began to seek.
    began: Option<Duration>,
    heard: Duration,
    beaten: Duration,
    progress: Progress,
    sequence: u64,
    /// Rank 0 as last heard.
    rank_0: LostPeer,
    note: String,
    actions: VecDeque<Action>,
}

impl Member {
    /// A process that says `hello`, at one of `ports` candidates.
    pub(super) fn new(settings: Settings, hello: Hello, meeting: String, ports: usize) -> Self {
        Self {
            clock: Attention::new(settings.beat),
            settings,
            hello,
            meeting,
            ports,
            port: 0,
            phase: Phase::Seeking(Duration::ZERO),
            began: None,
            heard: Duration::ZERO,
            beaten: Duration::ZERO,
            progress: Progress::default(),
            sequence: 0,
            rank_0: LostPeer {
                rank: 0,
                host: String::new(),
                step: 0,
                collective: String::new(),
                how: Loss::Silent { seconds: 0.0 },
            },
            note: String::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes what happened at `now`; returns what to do, in this order.
    pub(super) fn on(&mut self, now: Duration, event: Event) -> VecDeque<Action> {
        let now = self.clock.look(now);
        self.began.get_or_insert(now);
        if self.phase != Phase::Over {
            match event {
                Event::Connected => self.connected(now),
                Event::NotConnected(reason) => self.seek(now, reason),
                Event::Closed(reason) => self.closed(now, reason),
                Event::Received(message) => self.received(now, message),
                Event::Call(call) => self.call(call),
                Event::Tick => self.tick(now),
            }
        } else {
            self.after(event);
        }
        std::mem::take(&mut self.actions)
    }

    /// What happens when it is over.
    fn after(&mut self, event: Event) {
        match event {
            Event::Call(Call::Leave(exit)) => self.report(Report::Left(exit)),
            Event::Connected => self.actions.push_back(Action::Close),
            Event::NotConnected(_) | Event::Closed(_) | Event::Received(_) | Event::Call(_) | Event::Tick => {
            }
        }
    }

    fn send(&mut self, message: Message) {
        self.actions.push_back(Action::Send(message));
    }

    fn report(&mut self, report: Report) {
        self.actions.push_back(Action::Report(report));
    }

    fn over(&mut self, report: Report) {
        self.phase = Phase::Over;
        self.actions.push_back(Action::Close);
        self.report(report);
    }

    fn lost_rank_0(&mut self, how: Loss) {
        let lost = LostPeer {
            how,
            ..self.rank_0.clone()
        };
        self.over(Report::Failed(Failure::Lost(lost)));
    }

    fn connected(&mut self, now: Duration) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Greeting(now);
            self.send(Message::Hello(Box::new(self.hello.clone())));
        }
    }

    /// Goes on to the next port, after a pause once all were tried.
    fn seek(&mut self, now: Duration, reason: String) {
        if !reason.is_empty() {
            self.note = reason;
        }
        self.port = (self.port + 1) % self.ports.max(1);
        let pause = if self.port == 0 { RETRY } else { Duration::ZERO };
        self.phase = Phase::Seeking(now + pause);
    }

    fn closed(&mut self, now: Duration, reason: String) {
        match self.phase {
            Phase::Connecting | Phase::Greeting(_) | Phase::Waiting => self.seek(now, reason),
            Phase::Running | Phase::Leaving => self.lost_rank_0(Loss::Closed { reason }),
            Phase::Seeking(_) | Phase::Over => {}
        }
    }

    fn received(&mut self, now: Duration, message: Message) {
        self.heard = now;
        match (self.phase, message) {
            (_, Message::Failed(failure)) => self.over(Report::Failed(failure)),
            (Phase::Greeting(_), Message::Heard) => self.phase = Phase::Waiting,
            (Phase::Waiting, Message::Welcome(membership)) => self.welcome(membership),
            (Phase::Waiting | Phase::Running | Phase::Leaving, Message::Beat(progress)) => {
                self.rank_0.step = progress.step;
                self.rank_0.collective = progress.collective;
            }
            (Phase::Running, Message::Gathered { sequence, parts }) if sequence + 1 == self.sequence => {
                self.report(Report::Gathered(parts));
            }
            (Phase::Running | Phase::Leaving, Message::Through { step }) => {
                self.report(Report::Through(step));
            }
            (Phase::Running | Phase::Leaving, Message::Halt(halt)) => self.report(Report::Halt(halt)),
            (Phase::Running | Phase::Leaving, Message::Committed { step }) => {
                self.report(Report::Committed(step));
            }
            (Phase::Leaving, Message::Bye { exit }) => self.over(Report::Left(exit)),
            (phase, message) => self.lost_rank_0(Loss::OutOfStep {
                expected: format!("what a member awaits ({phase:?})"),
                found: message.name().into(),
            }),
        }
    }

    fn welcome(&mut self, membership: Membership) {
        if let Some(peer) = membership.peers.first() {
            self.rank_0.host.clone_from(&peer.host);
        }
        self.phase = Phase::Running;
        self.report(Report::Joined(membership));
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Progress(progress) => self.progress = progress,
            Call::Leave(exit) => self.leave(exit),
            Call::Give { what, bytes } => {
                let give = Message::Give {
                    sequence: self.sequence,
                    what,
                    bytes: Bytes(bytes),
                    progress: self.progress.clone(),
                };
                self.sequence += 1;
                self.send(give);
            }
            Call::Begin(step) => self.send(Message::Begin { step }),
            Call::Wish(signal) => self.send(Message::Wish { signal }),
            Call::Commit(step) => self.send(Message::Commit { step }),
        }
    }

    fn leave(&mut self, exit: u8) {
        self.send(Message::Leave { exit });
        if self.phase == Phase::Running && is_good(exit) {
            self.phase = Phase::Leaving;
        } else {
            self.over(Report::Left(exit));
        }
    }
}

/// Exit codes that end a job as planned: done, and stopped with a good checkpoint.
pub(super) fn is_good(exit: u8) -> bool {
    matches!(exit, 0 | 75)
}
