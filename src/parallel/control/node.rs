//! What one process has of the machines: a member, and at rank 0 the coordinator too, joined without a socket.

use std::collections::VecDeque;
use std::time::Duration;

use super::coordinator::{self, Connection, Coordinator};
use super::member::{self, Call, Member, Report};
use super::message::Message;

/// Rank 0's own member; other connections count from 1.
const LOCAL: Connection = 0;

/// What happens to a process.
#[derive(Debug, Clone)]
pub(super) enum Input {
    /// Somebody connected.
    Accepted(Connection),
    /// The connection that it asked for is there.
    Dialled(Connection),
    /// It is not to be had.
    NotDialled(String),
    /// Somebody says something.
    Received(Connection, Message),
    /// A connection is gone, or spoke another language.
    Closed(Connection, String),
    /// The process wants something.
    Call(Call),
    /// Time passes.
    Tick,
}

/// What a process wants done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Output {
    /// Connect to this one of the meeting's ports.
    Dial(usize),
    /// Say this.
    Send(Connection, Message),
    /// Close it once everything is sent.
    Close(Connection),
    /// Tell the process.
    Report(Report),
}

enum Work {
    Member(member::Event),
    Coordinator(coordinator::Event),
}

/// The machines of one process.
#[derive(Debug)]
pub(super) struct Node {
    member: Member,
    coordinator: Option<Coordinator>,
    /// The member's connection to the coordinator.
    uplink: Option<Connection>,
}

impl Node {
    /// `coordinator` at rank 0 only.
    pub(super) fn new(member: Member, coordinator: Option<Coordinator>) -> Self {
        Self {
            member,
            coordinator,
            uplink: None,
        }
    }

    /// Takes what happened at `now`; returns what to do, in this order.
    pub(super) fn on(&mut self, now: Duration, input: Input) -> Vec<Output> {
        use coordinator::Event as C;
        use member::Event as M;
        let uplink = |connection| self.uplink == Some(connection);
        let mut work = VecDeque::new();
        match input {
            Input::Accepted(connection) => work.push_back(Work::Coordinator(C::Accepted(connection))),
            Input::Dialled(connection) => {
                self.uplink = Some(connection);
                work.push_back(Work::Member(M::Connected));
            }
            Input::NotDialled(reason) => work.push_back(Work::Member(M::NotConnected(reason))),
            Input::Received(connection, message) if uplink(connection) => {
                work.push_back(Work::Member(M::Received(message)));
            }
            Input::Received(connection, message) => {
                work.push_back(Work::Coordinator(C::Received(connection, message)));
            }
            Input::Closed(connection, reason) if uplink(connection) => {
                self.uplink = None;
                work.push_back(Work::Member(M::Closed(reason)));
            }
            Input::Closed(connection, reason) => {
                work.push_back(Work::Coordinator(C::Closed(connection, reason)));
            }
            Input::Call(call) => work.push_back(Work::Member(M::Call(call))),
            Input::Tick => work.extend([Work::Coordinator(C::Tick), Work::Member(M::Tick)]),
        }
        let mut outputs = Vec::new();
        while let Some(next) = work.pop_front() {
            match next {
                Work::Member(event) => {
                    for action in self.member.on(now, event) {
                        self.of_member(action, &mut work, &mut outputs);
                    }
                }
                Work::Coordinator(event) => {
                    let actions = self.coordinator.as_mut().map(|machine| machine.on(now, event));
                    for action in actions.unwrap_or_default() {
                        self.of_coordinator(action, &mut work, &mut outputs);
                    }
                }
            }
        }
        outputs
    }

    fn of_member(&mut self, action: member::Action, work: &mut VecDeque<Work>, outputs: &mut Vec<Output>) {
        match action {
            member::Action::Connect(_) if self.coordinator.is_some() => {
                self.uplink = Some(LOCAL);
                work.push_back(Work::Coordinator(coordinator::Event::Accepted(LOCAL)));
                work.push_back(Work::Member(member::Event::Connected));
            }
            member::Action::Connect(port) => outputs.push(Output::Dial(port)),
            member::Action::Send(message) => match self.uplink {
                Some(LOCAL) => {
                    work.push_back(Work::Coordinator(coordinator::Event::Received(LOCAL, message)));
                }
                Some(connection) => outputs.push(Output::Send(connection, message)),
                None => {}
            },
            member::Action::Close => match self.uplink.take() {
                Some(LOCAL) => {
                    let closed = coordinator::Event::Closed(LOCAL, "rank 0 closed it".into());
                    work.push_back(Work::Coordinator(closed));
                }
                Some(connection) => outputs.push(Output::Close(connection)),
                None => {}
            },
            member::Action::Report(report) => outputs.push(Output::Report(report)),
        }
    }

    fn of_coordinator(
        &mut self,
        action: coordinator::Action,
        work: &mut VecDeque<Work>,
        outputs: &mut Vec<Output>,
    ) {
        match action {
            coordinator::Action::Send(LOCAL, message) => {
                work.push_back(Work::Member(member::Event::Received(message)));
            }
            coordinator::Action::Send(connection, message) => {
                outputs.push(Output::Send(connection, message));
            }
            coordinator::Action::Close(LOCAL) => {
                if self.uplink.take_if(|uplink| *uplink == LOCAL).is_some() {
                    let reason = "the coordinator closed it".into();
                    work.push_back(Work::Member(member::Event::Closed(reason)));
                }
            }
            coordinator::Action::Close(connection) => outputs.push(Output::Close(connection)),
        }
    }
}
