//! Simulated processes and the network between them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

use super::app::{App, End, Want};
use super::schedule::{Fault, MS, Schedule};
use crate::parallel::control::coordinator::{Connection, Coordinator};
use crate::parallel::control::launcher::Launch;
use crate::parallel::control::member::{Call, Member};
use crate::parallel::control::message::{Bytes, Hello, Message};
use crate::parallel::control::node::{Input, Node, Output};
use crate::rng::{Purpose, Stream};

mod faults;

/// Between two looks of a process at its clock.
const TICK: u64 = 100 * MS;

/// Nothing takes longer; who has not ended then hangs.
pub(super) const LIMIT: u64 = 60_000 * MS;

/// All clocks show this at the start, so that they can jump back.
const EPOCH: u64 = 1_000_000 * MS;

#[derive(Debug)]
enum Happening {
    Start(usize),
    Tick(usize),
    Dial(usize, usize),
    Deliver(usize, Way, Item),
    Resume(usize),
    Thaw(usize),
    Fault(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

#[derive(Debug)]
enum Item {
    Message(Message),
    End(&'static str),
}

/// A connection to rank 0.
#[derive(Debug)]
struct Line {
    /// Who dialled; nobody where it is a stranger.
    member: Option<usize>,
    /// Whether nobody of ours is at the other end.
    mute: bool,
    /// Nothing arrives any more.
    hole: bool,
    /// Who does not listen any more: up is rank 0.
    closed: [bool; 2],
    /// When the last item of each way arrives.
    last: [u64; 2],
}

pub(super) struct Process {
    node: Node,
    pub(super) app: App,
    pub(super) alive: bool,
    pub(super) frozen: bool,
    frozen_until: u64,
    backlog: Vec<Input>,
    resumed: bool,
    offset: i64,
}

pub(super) struct World<'a> {
    schedule: &'a Schedule,
    draw: Stream,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    pub(super) processes: Vec<Process>,
    lines: Vec<Line>,
    /// When each rank last reached rank 0, in microseconds.
    pub(super) redialled: Vec<u64>,
    /// Microseconds at which each fault that happened to a running process happened.
    pub(super) struck: Vec<(u64, Fault)>,
}

impl<'a> World<'a> {
    pub(super) fn new(schedule: &'a Schedule) -> Self {
        let mut world = Self {
            schedule,
            draw: Stream::new(schedule.seed, 1, Purpose::Synthetic, 0),
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            processes: (0..schedule.size).map(|rank| process(schedule, rank)).collect(),
            lines: Vec::new(),
            redialled: vec![0; schedule.size],
            struck: Vec::new(),
        };
        for (rank, start) in schedule.starts.iter().enumerate() {
            if let Some(start) = start {
                world.at(*start, Happening::Start(rank));
            }
        }
        for (index, (time, _)) in schedule.faults.iter().enumerate() {
            world.at(*time, Happening::Fault(index));
        }
        world
    }

    /// Lives until nobody is left, or for long enough.
    pub(super) fn run(mut self) -> Self {
        while let Some(((time, _), happening)) = self.queue.pop_first() {
            self.now = time;
            let over = self
                .processes
                .iter()
                .all(|process| !process.alive || process.app.end.is_some());
            let starting = self
                .queue
                .values()
                .any(|next| matches!(next, Happening::Start(_)));
            if time > LIMIT
                || over && !starting && !matches!(happening, Happening::Start(_)) && time > 6000 * MS
            {
                break;
            }
            self.happen(happening);
        }
        self
    }

    fn at(&mut self, time: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((time, self.order), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start(rank) => {
                self.processes[rank].alive = true;
                self.at(self.now, Happening::Tick(rank));
            }
            Happening::Tick(rank) => {
                if self.processes[rank].alive {
                    self.at(self.now + TICK, Happening::Tick(rank));
                    if !self.processes[rank].frozen {
                        self.feed(rank, Input::Tick);
                    }
                }
            }
            Happening::Dial(rank, port) => self.dialled(rank, port),
            Happening::Deliver(line, way, item) => self.deliver(line, way, item),
            Happening::Resume(rank) => self.resume(rank),
            Happening::Thaw(rank) => self.thaw(rank),
            Happening::Fault(index) => self.strike(self.schedule.faults[index].1.clone()),
        }
    }

    fn delay(&mut self) -> u64 {
        match self.draw.below(50) {
            0 => self.draw.below(500 * MS),
            _ => self.draw.below(self.schedule.delay),
        }
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Lets a process know, and does what it wants.
    fn feed(&mut self, rank: usize, input: Input) {
        let process = &mut self.processes[rank];
        if !process.alive {
            return;
        }
        if process.frozen {
            return process.backlog.push(input);
        }
        let clock = (EPOCH + self.now).saturating_add_signed(process.offset);
        for output in process.node.on(Duration::from_micros(clock), input) {
            self.output(rank, output);
        }
        let wants = match self.processes[rank].alive {
            true => self.processes[rank].app.advance(&mut self.draw),
            false => Vec::new(),
        };
        self.wanted(rank, wants);
    }

    fn output(&mut self, rank: usize, output: Output) {
        match output {
            Output::Dial(port) => {
                let time = self.now + self.draw.below(50 * MS);
                self.at(time, Happening::Dial(rank, port));
            }
            Output::Send(connection, message) => self.send(rank, connection, Item::Message(message)),
            Output::Close(connection) => {
                self.send(rank, connection, Item::End("closed"));
                self.lines[index(connection)].closed[usize::from(rank != 0)] = true;
            }
            Output::Report(report) => {
                let (now, written) = (self.time(), self.processes[0].app.written);
                self.processes[rank].app.report(now, report, written);
            }
        }
    }

    fn wanted(&mut self, rank: usize, wants: Vec<Want>) {
        for want in wants {
            match want {
                Want::Call(call) => self.feed(rank, Input::Call(call)),
                Want::Work(micros) => self.at(self.now + micros, Happening::Resume(rank)),
                Want::Exit => self.exit(rank, "end of stream"),
            }
        }
    }

    fn resume(&mut self, rank: usize) {
        let now = self.time();
        let process = &mut self.processes[rank];
        if !process.alive || process.app.end.is_some() {
            return;
        }
        if process.frozen {
            process.resumed = true;
            return;
        }
        let wants = process.app.resume(now, &mut self.draw);
        if let Some((_, End::Own(exit))) = process.app.end {
            self.struck.push((self.now, Fault::OwnError { rank, exit }));
        }
        self.wanted(rank, wants);
    }

    fn thaw(&mut self, rank: usize) {
        let process = &mut self.processes[rank];
        if self.now < process.frozen_until {
            return; // it was stopped again, for longer
        }
        process.frozen = false;
        let backlog = std::mem::take(&mut process.backlog);
        let resumed = std::mem::take(&mut process.resumed);
        if self.draw.below(2) == 0 {
            self.feed(rank, Input::Tick);
        }
        for input in backlog {
            self.feed(rank, input);
        }
        if resumed {
            self.resume(rank);
        }
    }

    /// Its process ends: connections end after what was sent.
    fn exit(&mut self, rank: usize, reason: &'static str) {
        if std::mem::replace(&mut self.processes[rank].alive, false) {
            for line in self.lines_of(rank) {
                self.send(rank, line as Connection + 1, Item::End(reason));
            }
        }
    }

    fn lines_of(&self, rank: usize) -> Vec<usize> {
        let of = |line: &Line| rank == 0 || line.member == Some(rank);
        let lines = self.lines.iter().enumerate();
        lines
            .filter(|(_, line)| of(line))
            .map(|(index, _)| index)
            .collect()
    }

    fn send(&mut self, from: usize, connection: Connection, item: Item) {
        let delay = self.delay();
        let (way, side) = if from == 0 { (Way::Down, 1) } else { (Way::Up, 0) };
        let line = &mut self.lines[index(connection)];
        if line.closed[1 - side] || line.mute {
            return; // it has closed its own end before
        }
        let time = (self.now + delay).max(line.last[side] + 1);
        line.last[side] = time;
        self.at(time, Happening::Deliver(index(connection), way, item));
    }

    fn deliver(&mut self, index: usize, way: Way, item: Item) {
        let line = &mut self.lines[index];
        let side = usize::from(way == Way::Down);
        let to = if way == Way::Up { Some(0) } else { line.member };
        let (true, Some(to)) = (!line.hole && !line.closed[side], to) else {
            return;
        };
        let connection = index as Connection + 1;
        match item {
            Item::Message(message) => self.feed(to, Input::Received(connection, message)),
            Item::End(reason) => {
                line.closed[side] = true;
                self.feed(to, Input::Closed(connection, reason.into()));
            }
        }
    }

    fn line(&mut self, member: Option<usize>, mute: bool) -> Connection {
        self.lines.push(Line {
            member,
            mute,
            hole: false,
            closed: [false; 2],
            last: [self.now; 2],
        });
        self.lines.len() as Connection
    }

    fn dialled(&mut self, rank: usize, port: usize) {
        let there = port == self.schedule.port;
        if there && self.processes[0].alive {
            self.redialled[rank] = self.now;
            let connection = self.line(Some(rank), false);
            self.feed(0, Input::Accepted(connection));
            self.feed(rank, Input::Dialled(connection));
        } else if !there && self.schedule.mute {
            let connection = self.line(Some(rank), true);
            self.feed(rank, Input::Dialled(connection));
        } else {
            self.feed(rank, Input::NotDialled("connection refused".into()));
        }
    }

    /// How everybody ended, for a person.
    pub(super) fn story(&self) -> String {
        let mut story = format!("at {} ms; struck: {:?}\n", self.now / MS, self.struck);
        for (rank, process) in self.processes.iter().enumerate() {
            let (alive, frozen, app) = (process.alive, process.frozen, &process.app);
            // Writing to a string does not fail.
            let _ = writeln!(story, "rank {rank}: alive {alive}, frozen {frozen}, {app:?}");
        }
        story
    }
}

/// A connection's place among the lines.
fn index(connection: Connection) -> usize {
    connection as usize - 1
}

fn hello(schedule: &Schedule, rank: usize) -> Hello {
    let launch = Launch {
        rank,
        size: schedule.size,
        ..Launch::solo()
    };
    let class = i32::from(schedule.other_class == Some(rank));
    let device = if schedule.same_device == Some(rank) {
        0
    } else {
        rank
    };
    Hello {
        host: "node01".into(),
        pid: 100 + rank as u32,
        blob: Bytes(if rank == 0 {
            b"unique id".to_vec()
        } else {
            Vec::new()
        }),
        ..Hello::new(
            &launch,
            json!({"version": "1", "seed": class}),
            vec![format!("GPU-{device}")],
        )
    }
}

fn process(schedule: &Schedule, rank: usize) -> Process {
    let (settings, meeting) = (schedule.settings(), "node01:20000".to_string());
    let member = Member::new(settings, hello(schedule, rank), meeting.clone(), 2);
    let coordinator = (rank == 0).then(|| Coordinator::new(settings, meeting, schedule.size));
    let mut node = Node::new(member, coordinator);
    node.on(
        Duration::from_micros(EPOCH),
        Input::Call(Call::Progress(Default::default())),
    );
    Process {
        node,
        app: App::new(schedule, rank),
        alive: false,
        frozen: false,
        frozen_until: 0,
        backlog: Vec::new(),
        resumed: false,
        offset: 0,
    }
}
