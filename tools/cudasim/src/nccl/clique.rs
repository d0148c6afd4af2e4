//! A clique: all ranks of one communicator, as far as this process knows of them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::abroad::Pending;
use super::board::Board;
use super::{Comm, Party, wire};
use crate::sim::Handle;

/// All ranks of one communicator.
pub(super) struct Clique {
    /// Where reductions begin to add up depends on it.
    pub(super) seed: u64,
    /// The communicator of each rank that has joined in this process.
    pub(super) members: Vec<Option<Handle>>,
    /// Where ranks of other processes are met; `None` once all ranks are of this process.
    pub(super) board: Option<Board>,
    /// Calls that wait for other processes.
    pub(super) pending: Vec<Pending>,
    /// When was last looked whether the other processes are there.
    pub(super) looked: Instant,
    /// How many calls each side of a channel has made.
    pub(super) called: BTreeMap<(Channel, usize), u64>,
    pub(super) meetings: BTreeMap<(Channel, u64), Vec<Option<Party>>>,
}

/// What calls are counted by: those of one channel meet in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Channel {
    Collective,
    /// Sides: 0 sends, 1 receives.
    Transfer {
        from: usize,
        to: usize,
    },
}

impl Channel {
    /// The rank that sits on a side.
    pub(super) fn rank_of(self, side: usize) -> usize {
        match self {
            Self::Collective => side,
            Self::Transfer { from, to } => [from, to][side],
        }
    }
}

impl Clique {
    pub(super) fn new(seed: u64, ranks: usize, board: Option<Board>) -> Self {
        Self {
            seed,
            members: vec![None; ranks],
            board,
            pending: Vec::new(),
            looked: Instant::now(),
            called: BTreeMap::new(),
            meetings: BTreeMap::new(),
        }
    }

    pub(super) fn has_joined(&self, rank: usize) -> bool {
        self.members[rank].is_some() || self.board.as_ref().is_some_and(|board| board.has_joined(rank))
    }

    pub(super) fn is_complete(&self) -> bool {
        (0..self.members.len()).all(|rank| self.has_joined(rank))
    }

    /// Whether there are ranks of other processes.
    pub(super) fn is_abroad(&self) -> bool {
        self.members.iter().any(Option::is_none)
    }

    pub(super) fn sides(&self, channel: Channel) -> usize {
        match channel {
            Channel::Collective => self.members.len(),
            Channel::Transfer { .. } => 2,
        }
    }

    /// Counts a call, and says how many its side of the channel has made before.
    pub(super) fn count_call(&mut self, channel: Channel, side: usize) -> u64 {
        if let Some(board) = &self.board {
            return board.count_call(channel, side);
        }
        let called = self.called.entry((channel, side)).or_default();
        *called += 1;
        *called - 1
    }

    /// How many calls a side of a channel has made.
    pub(super) fn called(&self, channel: Channel, side: usize) -> u64 {
        match &self.board {
            Some(board) => board.called(channel, side),
            None => self.called.get(&(channel, side)).copied().unwrap_or(0),
        }
    }

    /// The node that a rank is in.
    pub(super) fn node(&self, comms: &BTreeMap<Handle, Comm>, rank: usize) -> usize {
        match &self.board {
            Some(board) => board.node(rank),
            None => {
                let comm = self.members[rank].and_then(|comm| comms.get(&comm));
                comm.map_or(0, |comm| wire::node_of(comm.device))
            }
        }
    }
}
