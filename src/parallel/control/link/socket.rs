//! One connection: bytes in, messages out, and the other way round, without ever waiting.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use crate::parallel::control::message::Message;
use crate::parallel::control::wire::{self, Decoder};

/// Bytes that may wait for a process that does not read.
const UNSENT: usize = 2 * wire::MOST;

/// Reads of one connection before others have their turn.
const READS: usize = 16;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// Sends the rest, then waits for the other side's end until this moment: to close with something unread would
    /// take back what the other side has not read yet.
    Closing(Instant),
    /// Has sent its end.
    Shut(Instant),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    token: u64,
    decoder: Decoder,
    unsent: Vec<u8>,
    sent: usize,
    life: Life,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, token: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            token,
            decoder: Decoder::new(token),
            unsent: Vec::new(),
            sent: 0,
            life: Life::Open,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Adds a message to what is to be sent.
    pub(super) fn say(&mut self, message: &Message) -> Result<(), String> {
        if self.life == Life::Open {
            let frame = wire::encode(message, self.token).map_err(|error| error.to_string())?;
            if self.unsent.len() + frame.len() > UNSENT {
                return Err("it does not read what it is sent".into());
            }
            self.unsent.extend(frame);
        }
        Ok(())
    }

    /// Sends what the system takes.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        while self.has_unsent() {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err("it takes no more".into()),
                Ok(n) => self.sent += n,
                Err(error) => return only_real(&error),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        if let Life::Closing(until) = self.life {
            self.life = Life::Shut(until);
            // Where this fails the connection is gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Begins to close; [`is_done`](Self::is_done) says when it may be dropped.
    pub(super) fn close(&mut self, until: Instant) {
        if self.life == Life::Open {
            self.life = Life::Closing(until);
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.life != Life::Open
    }

    /// Whether a closing connection has waited long enough.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        match self.life {
            Life::Open => false,
            Life::Closing(until) | Life::Shut(until) => now >= until,
        }
    }

    /// Messages that came, and why no more will come, if so.
    pub(super) fn read(&mut self) -> (Vec<Message>, Option<String>) {
        let mut messages = Vec::new();
        let mut bytes = [0; 16 << 10];
        for _ in 0..READS {
            let count = match self.stream.read(&mut bytes) {
                Ok(0) => return (messages, Some("end of stream".into())),
                Ok(count) => count,
                Err(error) => return (messages, only_real(&error).err()),
            };
            if self.is_closing() {
                continue;
            }
            self.decoder.push(&bytes[..count]);
            loop {
                match self.decoder.next() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error.to_string())),
                }
            }
        }
        (messages, None)
    }
}

/// An error that is more than "not now".
fn only_real(error: &io::Error) -> Result<(), String> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error.to_string()),
    }
}
