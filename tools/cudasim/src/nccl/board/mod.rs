//! A board: the file in shared memory at which the processes of one communicator meet.
//!
//! There are no locks on it. Every word has one writer, the process of the rank that it belongs to (but for the count of
//! who has still to read a post), so a process that is killed or stopped anywhere keeps nobody from going on. That a
//! process lives is seen by locks that the kernel takes from it when it ends: it holds one, on a byte far behind the
//! file's end, for each of its ranks.
//!
//! The file has a name only until all ranks have joined. What is left of processes that were killed before that is
//! removed by the next process that looks for a board.

mod file;
mod post;
mod words;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use self::post::Posts;
use self::words::Words;
use super::clique::Channel;

pub(super) use self::post::{CALL, Post};

/// Ranks of one communicator.
pub(super) const MOST_RANKS: usize = 64;

/// Words of a member: its state, its device, its node, what has happened in its process, how many of its slots were used.
const MEMBER: usize = 5;
const STATE: usize = 0;
const DEVICE: usize = 1;
const NODE: usize = 2;
const BEATS: usize = 3;
const SLOTS_USED: usize = 4;

/// Where things begin, in words. The first word is the number of ranks.
const MEMBERS: usize = 1;
const CALLED: usize = MEMBERS + MOST_RANKS * MEMBER;
/// A rank's calls are counted for collectives, sends to each rank, receives from each rank.
const CHANNELS: usize = 1 + 2 * MOST_RANKS;
const SLOTS: usize = CALLED + MOST_RANKS * CHANNELS;
const WORDS: usize = SLOTS + MOST_RANKS * post::WORDS_OF_RANK;

/// How far a rank has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum State {
    Absent = 0,
    /// It may not join.
    Refused = 1,
    Joined = 2,
    /// Its communicator has an error.
    Failed = 3,
    /// Its communicator was destroyed or aborted.
    Left = 4,
}

/// Why a rank cannot join.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The others say that there are so many ranks.
    Ranks(usize),
    /// Another process has this rank.
    Taken,
    /// This rank has the same device.
    Device(usize),
    System(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(why: io::Error) -> Self {
        Self::System(why)
    }
}

/// One process's end of a board.
pub(super) struct Board {
    path: PathBuf,
    file: File,
    words: Words,
    ranks: usize,
    posts: Posts,
    /// Ranks of this process.
    mine: Vec<usize>,
}

impl Board {
    /// The board of a communicator, which the first process makes.
    pub(super) fn open(name: &str, ranks: usize) -> io::Result<Self> {
        let (path, file) = file::open(name)?;
        let words = Words::map(&file, WORDS)?;
        Ok(Self {
            path,
            file,
            words,
            ranks,
            posts: Posts::default(),
            mine: Vec::new(),
        })
    }

    /// Makes a rank of this process known.
    pub(super) fn join(&mut self, rank: usize, device: usize, node: usize) -> Result<(), Refusal> {
        let agreed = self.words.at(0);
        let ranks = self.ranks as u64;
        if let Err(said) = agreed.compare_exchange(0, ranks, Ordering::SeqCst, Ordering::SeqCst)
            && said != ranks
        {
            return Err(Refusal::Ranks(said as usize));
        }
        // From here on until this process ends the rank is its own.
        if !file::hold(&self.file, rank)? || self.state(rank) != State::Absent as u64 {
            return Err(Refusal::Taken);
        }
        self.member(rank, DEVICE).store(device as u64, Ordering::SeqCst);
        self.member(rank, NODE).store(node as u64, Ordering::SeqCst);
        self.set_state(rank, State::Joined);
        self.mine.push(rank);
        if let Some(other) = self.rank_on(device, node, rank) {
            self.set_state(rank, State::Refused);
            self.remove_name();
            return Err(Refusal::Device(other));
        }
        if self.is_complete() {
            self.remove_name();
        }
        Ok(())
    }

    /// Another rank on the same device.
    fn rank_on(&self, device: usize, node: usize, but: usize) -> Option<usize> {
        let is_there = |rank: &usize| {
            self.has_joined(*rank)
                && self.member(*rank, DEVICE).load(Ordering::SeqCst) == device as u64
                && self.node(*rank) == node
        };
        (0..self.ranks).filter(|rank| *rank != but).find(is_there)
    }

    /// Takes the board's name away: whoever is to find it has found it.
    pub(super) fn remove_name(&self) {
        // Where another rank has done it already, it is gone.
        let _ = std::fs::remove_file(&self.path);
    }

    pub(super) fn has_joined(&self, rank: usize) -> bool {
        self.state(rank) >= State::Joined as u64
    }

    pub(super) fn is_complete(&self) -> bool {
        (0..self.ranks).all(|rank| self.has_joined(rank))
    }

    /// Whether a rank that has tried to join will do nothing any more: it was refused, its communicator failed, or its
    /// process is gone.
    pub(super) fn is_lost(&self, rank: usize) -> bool {
        let state = self.state(rank);
        let is_gone = || !self.mine.contains(&rank) && !file::is_held(&self.file, rank);
        [State::Refused as u64, State::Failed as u64].contains(&state)
            || state == State::Joined as u64 && is_gone()
    }

    /// Whether not all ranks can join any more.
    pub(super) fn is_hopeless(&self) -> bool {
        let is_gone = |rank| self.state(rank) == State::Left as u64 || self.is_lost(rank);
        !self.is_complete() && (0..self.ranks).any(is_gone)
    }

    /// A rank of this process says that its communicator has an error.
    pub(super) fn fail(&self, rank: usize) {
        self.set_state(rank, State::Failed);
    }

    /// A rank of this process leaves. What it has posted stays, and so does an error.
    pub(super) fn leave(&self, rank: usize) {
        if !self.is_complete() {
            self.remove_name();
        }
        if self.state(rank) != State::Failed as u64 {
            self.set_state(rank, State::Left);
        }
    }

    pub(super) fn node(&self, rank: usize) -> usize {
        self.member(rank, NODE).load(Ordering::SeqCst) as usize
    }

    /// Says that something has happened in this process.
    pub(super) fn beat(&self) {
        if let Some(rank) = self.mine.first() {
            self.member(*rank, BEATS).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A number that changes when something happens in any of the processes.
    pub(super) fn beats(&self) -> u64 {
        let of = |rank| self.member(rank, BEATS).load(Ordering::Relaxed);
        (0..self.ranks).map(of).fold(0, u64::wrapping_add)
    }

    /// Counts a call of a rank of this process, and says how many there were.
    pub(super) fn count_call(&self, channel: Channel, side: usize) -> u64 {
        self.counter(channel, side).fetch_add(1, Ordering::SeqCst)
    }

    /// How many calls a side of a channel has made.
    pub(super) fn called(&self, channel: Channel, side: usize) -> u64 {
        self.counter(channel, side).load(Ordering::SeqCst)
    }

    fn counter(&self, channel: Channel, side: usize) -> &AtomicU64 {
        let within = match (channel, side) {
            (Channel::Collective, _) => 0,
            (Channel::Transfer { to, .. }, 0) => 1 + to,
            (Channel::Transfer { from, .. }, _) => 1 + MOST_RANKS + from,
        };
        self.words.at(CALLED + channel.rank_of(side) * CHANNELS + within)
    }

    fn member(&self, rank: usize, word: usize) -> &AtomicU64 {
        self.words.at(MEMBERS + rank * MEMBER + word)
    }

    fn state(&self, rank: usize) -> u64 {
        self.member(rank, STATE).load(Ordering::SeqCst)
    }

    fn set_state(&self, rank: usize, state: State) {
        self.member(rank, STATE).store(state as u64, Ordering::SeqCst);
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // A process that was refused leaves the others alone.
        if !self.mine.is_empty() && !self.is_complete() {
            self.remove_name();
        }
    }
}
