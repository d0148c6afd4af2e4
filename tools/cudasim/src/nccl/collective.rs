//! What a call asks for, whether calls fit together, and what they do once they have met.

use std::fmt;
use std::ops::Range;

use super::Party;
use super::arithmetic::{Element, Reduction, reduce};
use super::board::CALL;
use super::clique::Channel;
use crate::access::Kind as Access;
use crate::sim::Sim;

/// The functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    AllReduce(Reduction),
    Reduce {
        reduction: Reduction,
        root: usize,
    },
    ReduceScatter(Reduction),
    Broadcast {
        root: usize,
    },
    AllGather,
    /// To this rank.
    Send(usize),
    /// From this rank.
    Receive(usize),
}

/// One rank's call. Counts are in elements, as the function counts them: of the whole array, of one rank's part where
/// ranks have parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) function: Function,
    pub(super) count: usize,
    pub(super) element: Element,
    /// What is read, where this rank has to give something.
    pub(super) from: Option<u64>,
    /// What is written, where this rank gets something.
    pub(super) to: Option<u64>,
    pub(super) rank: usize,
    pub(super) ranks: usize,
    /// It never comes to its meeting, by a planned fault.
    pub(super) lost: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} {:?} by rank {}",
            self.name(),
            self.count,
            self.element,
            self.rank
        )?;
        match self.function {
            Function::Reduce { root, .. } | Function::Broadcast { root } => write!(f, " with root {root}"),
            _ => Ok(()),
        }
    }
}

impl Call {
    /// The call as numbers, for other processes. Who calls, and its addresses, are not in them.
    pub(super) fn to_words(&self) -> [u64; CALL] {
        let pair = |high: usize, low: u64| (high as u64) << 8 | low;
        let (function, more) = match self.function {
            Function::AllReduce(reduction) => (0, reduction.number()),
            Function::Reduce { reduction, root } => (1, pair(root, reduction.number())),
            Function::ReduceScatter(reduction) => (2, reduction.number()),
            Function::Broadcast { root } => (3, root as u64),
            Function::AllGather => (4, 0),
            Function::Send(to) => (5, to as u64),
            Function::Receive(from) => (6, from as u64),
        };
        [function, more, self.count as u64, self.element.number()]
    }

    /// Another process's call.
    pub(super) fn from_words(words: [u64; CALL], rank: usize, ranks: usize) -> Option<Self> {
        let [function, more, count, element] = words;
        let reduction = || Reduction::of(more as u32 & 0xFF);
        let function = match function {
            0 => Function::AllReduce(reduction()?),
            1 => Function::Reduce {
                reduction: reduction()?,
                root: more as usize >> 8,
            },
            2 => Function::ReduceScatter(reduction()?),
            3 => Function::Broadcast { root: more as usize },
            4 => Function::AllGather,
            5 => Function::Send(more as usize),
            6 => Function::Receive(more as usize),
            _ => return None,
        };
        Some(Self {
            function,
            count: count as usize,
            element: Element::of(element as u32)?,
            from: None,
            to: None,
            rank,
            ranks,
            lost: false,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.function {
            Function::AllReduce(_) => "ncclAllReduce",
            Function::Reduce { .. } => "ncclReduce",
            Function::ReduceScatter(_) => "ncclReduceScatter",
            Function::Broadcast { .. } => "ncclBroadcast",
            Function::AllGather => "ncclAllGather",
            Function::Send(_) => "ncclSend",
            Function::Receive(_) => "ncclRecv",
        }
    }

    /// Where the call of a rank takes part, and on which side.
    pub(super) fn seat(&self, rank: usize) -> (Channel, usize) {
        match self.function {
            Function::Send(to) => (Channel::Transfer { from: rank, to }, 0),
            Function::Receive(from) => (Channel::Transfer { from, to: rank }, 1),
            _ => (Channel::Collective, rank),
        }
    }

    /// Whether two calls that meet ask for the same.
    pub(super) fn matches(&self, other: &Self) -> bool {
        let same_size = self.count * self.element.bytes() == other.count * other.element.bytes();
        match (self.function, other.function) {
            (Function::Send(_) | Function::Receive(_), Function::Send(_) | Function::Receive(_)) => same_size,
            (mine, theirs) => mine == theirs && self.count == other.count && self.element == other.element,
        }
    }

    /// Bytes that this rank reads.
    pub(super) fn bytes_read(&self) -> usize {
        let all = if matches!(self.function, Function::ReduceScatter(_)) {
            self.ranks
        } else {
            1
        };
        all * self.count * self.element.bytes()
    }

    /// Bytes that this rank writes.
    pub(super) fn bytes_written(&self) -> usize {
        let all = if self.function == Function::AllGather {
            self.ranks
        } else {
            1
        };
        all * self.count * self.element.bytes()
    }

    /// Bytes of the rank's part of what all ranks have together.
    pub(super) fn part(&self) -> Range<usize> {
        let bytes = self.count * self.element.bytes();
        self.rank * bytes..(self.rank + 1) * bytes
    }

    /// Whether source and destination are apart, or lie in each other as the manual allows it.
    pub(super) fn in_place_is_legal(&self) -> bool {
        let (Some(from), Some(to)) = (self.from, self.to) else {
            return true;
        };
        let (read, written) = (self.bytes_read() as u64, self.bytes_written() as u64);
        let apart = from + read <= to || to + written <= from;
        let part = self.part().start as u64;
        apart
            || match self.function {
                Function::AllGather => from == to + part,
                Function::ReduceScatter(_) => to == from + part,
                _ => from == to,
            }
    }
}

/// What calls that have met need to be done alike by all of them.
pub(super) struct Meeting<'a> {
    pub(super) call: &'a Call,
    /// Where the ring begins in which a reduction adds up.
    pub(super) ring: usize,
    /// What each side gives: of a reduction the elements from `first` on, of everything else all or nothing.
    pub(super) given: &'a [Vec<u8>],
    pub(super) first: usize,
}

impl Meeting<'_> {
    /// All elements of a reduction that were given; of everything else what was given, one after the other.
    pub(super) fn result(&self) -> Vec<u8> {
        let Call {
            function, element, ..
        } = *self.call;
        match function {
            Function::AllReduce(reduction)
            | Function::Reduce { reduction, .. }
            | Function::ReduceScatter(reduction) => {
                let all = self.call.bytes_read() / element.bytes();
                reduce(element, reduction, self.given, self.ring, (self.first, all))
            }
            Function::Broadcast { .. } | Function::AllGather | Function::Send(_) | Function::Receive(_) => {
                self.given.concat()
            }
        }
    }
}

/// Does what calls that fit together ask for, each access checked as that of its rank.
pub(super) fn perform(sim: &mut Sim, parties: &[Party], ring: usize) {
    let mut legal = true;
    for Party { call, who, .. } in parties {
        if let Some(from) = call.from {
            legal &= sim.access_range(who, from, call.bytes_read() as u64, Access::Read);
        }
        if let Some(to) = call.to {
            legal &= sim.access_range(who, to, call.bytes_written() as u64, Access::Write);
        }
    }
    if !legal {
        return; // reported
    }
    let given: Vec<Vec<u8>> = parties.iter().map(|party| read(&party.call)).collect();
    let meeting = Meeting {
        call: &parties[0].call,
        ring,
        given: &given,
        first: 0,
    };
    let result = meeting.result();
    for Party { call, .. } in parties {
        match call.function {
            Function::ReduceScatter(_) => write(call, &result[call.part()]),
            _ => write(call, &result),
        }
    }
}

/// What a call gives, as bytes; nothing where it gives nothing. The range was checked to lie in a live allocation.
pub(super) fn read(call: &Call) -> Vec<u8> {
    let bytes = |from: u64| {
        // SAFETY: the range was checked.
        unsafe { std::slice::from_raw_parts(from as *const u8, call.bytes_read()) }.to_vec()
    };
    call.from.map(bytes).unwrap_or_default()
}

/// Gives a call what it gets, if it gets anything. The range was checked to lie in a live allocation.
pub(super) fn write(call: &Call, result: &[u8]) {
    let Some(to) = call.to else {
        return;
    };
    assert_eq!(result.len(), call.bytes_written(), "{call}");
    // SAFETY: the range was checked; the result has the size that is written.
    unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), to as *mut u8, result.len()) };
}
