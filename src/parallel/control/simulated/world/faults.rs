//! What faults do to simulated processes and connections.

use crate::parallel::control::coordinator::Connection;
use crate::parallel::control::message::Message;
use crate::parallel::control::node::Input;
use crate::parallel::control::simulated::schedule::Fault;

use super::{Happening, Item, Way, World, hello};

impl World<'_> {
    pub(super) fn strike(&mut self, fault: Fault) {
        let alive = |rank: usize| self.processes[rank].alive && self.processes[rank].app.end.is_none();
        // A process that is stopped does not come to its own error.
        let sleeps = matches!(fault, Fault::OwnError { rank, .. } if self.processes[rank].frozen);
        if sleeps || fault.loses().is_some_and(|rank| !alive(rank)) {
            return;
        }
        self.struck.push((self.now, fault.clone()));
        let (now, now_micros) = (self.time(), self.now);
        match fault {
            Fault::Crash { rank, loses } => {
                if loses {
                    let up = |way: &Way| (*way == Way::Up) == (rank != 0);
                    let lines = self.lines_of(rank);
                    self.queue.retain(|_, next| {
                        !matches!(next, Happening::Deliver(line, way, _) if lines.contains(line) && up(way))
                    });
                }
                self.exit(rank, "connection reset by peer");
            }
            Fault::PowerOff { rank } => {
                self.processes[rank].alive = false;
                self.lines_of(rank)
                    .into_iter()
                    .for_each(|line| self.lines[line].hole = true);
            }
            Fault::Freeze { rank, micros } => {
                let until = micros.map_or(u64::MAX, |micros| now_micros + micros);
                let process = &mut self.processes[rank];
                process.frozen = true;
                process.frozen_until = process.frozen_until.max(until);
                if let Some(micros) = micros {
                    self.at(now_micros + micros, Happening::Thaw(rank));
                }
            }
            Fault::Cut { rank } => {
                for line in self.lines_of(rank) {
                    let connection = line as Connection + 1;
                    self.send(rank, connection, Item::End("connection reset by peer"));
                    self.send(0, connection, Item::End("connection reset by peer"));
                }
            }
            Fault::Hole { rank } => {
                self.lines_of(rank)
                    .into_iter()
                    .for_each(|line| self.lines[line].hole = true);
            }
            Fault::Jump { rank, micros } => self.processes[rank].offset += micros,
            Fault::Signal { rank } => {
                if alive(rank) && !self.processes[rank].frozen {
                    let wants = self.processes[rank].app.signal();
                    self.wanted(rank, wants);
                }
            }
            Fault::OwnError { rank, exit } => {
                let wants = self.processes[rank].app.fail(now, exit);
                self.wanted(rank, wants);
            }
            Fault::Stranger { speaks } => self.stranger(speaks.then_some(Message::Wish {
                signal: "SIGTERM".into(),
            })),
            Fault::Twice { rank } => {
                let mut hello = hello(self.schedule, rank);
                hello.pid += 1000;
                self.stranger(Some(Message::Hello(Box::new(hello))));
            }
        }
    }

    fn stranger(&mut self, says: Option<Message>) {
        if self.processes[0].alive {
            let connection = self.line(None, false);
            self.feed(0, Input::Accepted(connection));
            if let Some(message) = says {
                self.feed(0, Input::Received(connection, message));
            }
        }
    }
}
