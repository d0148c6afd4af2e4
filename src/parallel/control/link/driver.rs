//! The thread that drives a node: the only one that touches its sockets.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use super::board::Board;
use super::dial::connect;
use super::poll::{self, Interest, Waker, Woken};
use super::socket::Socket;
use crate::parallel::control::Settings;
use crate::parallel::control::coordinator::{Connection, Coordinator};
use crate::parallel::control::launcher::{Launch, Meeting};
use crate::parallel::control::member::{Call, Member};
use crate::parallel::control::message::Hello;
use crate::parallel::control::node::{Input, Node, Output};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(50);

/// For the last messages of a connection to be read.
const LINGER: Duration = Duration::from_secs(2);

/// What the driver is asked for.
pub(super) enum Command {
    /// Something for the member.
    Call(Call),
    /// A connection that was asked for.
    Dialled(TcpStream),
    /// None is to be had.
    NotDialled(String),
    /// To end once everything is sent.
    End,
    /// To end at once.
    Abandon,
    /// Tests: to do nothing for a while, as a process does that was stopped.
    #[cfg(test)]
    Freeze(Duration),
}

pub(super) struct Driver {
    node: Node,
    meeting: Meeting,
    token: u64,
    listener: Option<TcpListener>,
    sockets: BTreeMap<Connection, Socket>,
    next: Connection,
    board: Arc<Board>,
    /// For the threads that make connections.
    commands: (Sender<Command>, Waker),
    started: Instant,
    ticked: Instant,
    /// Since when it is ending.
    ending: Option<Instant>,
    abandoned: bool,
}

impl Driver {
    pub(super) fn new(
        launch: &Launch,
        hello: Hello,
        settings: Settings,
        listener: Option<TcpListener>,
        board: Arc<Board>,
        commands: (Sender<Command>, Waker),
    ) -> Self {
        let meeting = launch.coordinator.clone();
        let coordinator =
            (launch.rank == 0).then(|| Coordinator::new(settings, meeting.to_string(), launch.size));
        let member = Member::new(settings, hello, meeting.to_string(), meeting.ports.len());
        let now = Instant::now();
        Self {
            node: Node::new(member, coordinator),
            token: launch.token(),
            meeting,
            listener,
            sockets: BTreeMap::new(),
            next: 1,
            board,
            commands,
            started: now,
            ticked: now,
            ending: None,
            abandoned: false,
        }
    }

    /// Serves until told to end.
    pub(super) fn run(mut self, commands: &Receiver<Command>, woken: &Woken) {
        let _end = EndOnDrop(Arc::clone(&self.board));
        if let Some(listener) = &self.listener
            && let Err(error) = listener.set_nonblocking(true)
        {
            return self.feed(Input::NotDialled(error.to_string()));
        }
        self.tick();
        while !self.is_finished() {
            // A wait that fails is a wait cut short: the tick and the reads go on.
            let _ = self.wait(woken);
            woken.clear();
            while let Ok(command) = commands.try_recv() {
                self.command(command);
            }
            self.accept();
            self.read();
            if self.ticked.elapsed() >= TICK {
                self.tick();
            }
            self.flush();
        }
    }

    fn is_finished(&self) -> bool {
        let lingered = self.ending.is_some_and(|since| since.elapsed() >= LINGER);
        self.abandoned || lingered || self.ending.is_some() && self.sockets.is_empty()
    }

    fn wait(&self, woken: &Woken) -> io::Result<()> {
        let listener = self
            .listener
            .iter()
            .map(|listener| (listener.as_raw_fd(), Interest::Read));
        let sockets = self.sockets.values().map(|socket| {
            let interest = if socket.has_unsent() {
                Interest::ReadOrWrite
            } else {
                Interest::Read
            };
            (socket.stream().as_raw_fd(), interest)
        });
        let all: Vec<_> = [(woken.as_raw_fd(), Interest::Read)]
            .into_iter()
            .chain(listener)
            .chain(sockets)
            .collect();
        poll::wait(&all, TICK.saturating_sub(self.ticked.elapsed())).map(drop)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Call(call) => {
                self.read_progress();
                self.feed(Input::Call(call));
            }
            Command::Dialled(stream) => match self.add(stream) {
                Ok(connection) => self.feed(Input::Dialled(connection)),
                Err(error) => self.feed(Input::NotDialled(error.to_string())),
            },
            Command::NotDialled(reason) => self.feed(Input::NotDialled(reason)),
            Command::End => {
                let now = Instant::now();
                self.ending = Some(now);
                self.listener = None;
                self.sockets
                    .values_mut()
                    .for_each(|socket| socket.close(now + LINGER));
            }
            Command::Abandon => self.abandoned = true,
            #[cfg(test)]
            Command::Freeze(time) => std::thread::sleep(time),
        }
    }

    fn read_progress(&mut self) {
        let progress = self.board.read_progress();
        self.feed(Input::Call(Call::Progress(progress)));
    }

    fn tick(&mut self) {
        self.ticked = Instant::now();
        self.read_progress();
        self.feed(Input::Tick);
        self.sockets.retain(|_, socket| !socket.is_done(self.ticked));
    }

    fn add(&mut self, stream: TcpStream) -> io::Result<Connection> {
        let socket = Socket::new(stream, self.token)?;
        let connection = self.next;
        self.next += 1;
        self.sockets.insert(connection, socket);
        Ok(connection)
    }

    fn accept(&mut self) {
        // An error leaves the connection in the system's queue, or takes it away: the next turn shows.
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) {
            if let Ok(connection) = self.add(stream) {
                self.feed(Input::Accepted(connection));
            }
        }
    }

    fn read(&mut self) {
        for connection in self.sockets.keys().copied().collect::<Vec<_>>() {
            let Some(socket) = self.sockets.get_mut(&connection) else {
                continue;
            };
            let closing = socket.is_closing();
            let (messages, end) = socket.read();
            for message in messages {
                self.feed(Input::Received(connection, message));
            }
            if let Some(reason) = end {
                self.sockets.remove(&connection);
                if !closing {
                    self.feed(Input::Closed(connection, reason));
                }
            }
        }
    }

    fn flush(&mut self) {
        for connection in self.sockets.keys().copied().collect::<Vec<_>>() {
            let flushed = self.sockets.get_mut(&connection).map(Socket::flush);
            if let Some(Err(reason)) = flushed {
                self.drop_socket(connection, reason);
            }
        }
    }

    fn drop_socket(&mut self, connection: Connection, reason: String) {
        let closing = self
            .sockets
            .remove(&connection)
            .is_none_or(|socket| socket.is_closing());
        if !closing {
            self.feed(Input::Closed(connection, reason));
        }
    }

    /// Tells the node, and does what it says.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.node.on(self.started.elapsed(), input) {
                match output {
                    Output::Dial(port) => self.dial(port),
                    Output::Send(connection, message) => {
                        let said = self
                            .sockets
                            .get_mut(&connection)
                            .map(|socket| socket.say(&message));
                        if let Some(Err(reason)) = said {
                            self.sockets.remove(&connection);
                            inputs.push_back(Input::Closed(connection, reason));
                        }
                    }
                    Output::Close(connection) => {
                        if let Some(socket) = self.sockets.get_mut(&connection) {
                            socket.close(Instant::now() + LINGER);
                        }
                    }
                    Output::Report(report) => self.board.apply(report),
                }
            }
        }
    }

    /// Makes a connection on a thread of its own: to look up a name may take long.
    fn dial(&self, port: usize) {
        let (commands, waker) = self.commands.clone();
        let host = self.meeting.host.clone();
        let port = self.meeting.ports.get(port).copied().unwrap_or_default();
        let connect = move || {
            let command = match connect(&host, port) {
                Ok(stream) => Command::Dialled(stream),
                Err(error) => Command::NotDialled(format!("{host}:{port}: {error}")),
            };
            // Where the driver has ended, nobody wants it.
            if commands.send(command).is_ok() {
                waker.wake();
            }
        };
        let thread = std::thread::Builder::new().name("control-dial".into());
        if let Err(error) = thread.spawn(connect) {
            let (commands, _) = &self.commands;
            // The driver is alive: it is this thread.
            let _ = commands.send(Command::NotDialled(error.to_string()));
        }
    }
}

/// Whoever waits must learn that the driver has ended, however it did.
struct EndOnDrop(Arc<Board>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
