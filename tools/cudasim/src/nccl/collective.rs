//! What a call asks for, whether calls fit together, and what they do once they have met.

use std::fmt;

use super::arithmetic::{Element, Reduction, reduce};
use super::{Channel, Party};
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

    /// Whether source and destination are apart, or lie in each other as the manual allows it.
    pub(super) fn in_place_is_legal(&self) -> bool {
        let (Some(from), Some(to)) = (self.from, self.to) else {
            return true;
        };
        let (read, written) = (self.bytes_read() as u64, self.bytes_written() as u64);
        let apart = from + read <= to || to + written <= from;
        let part = (self.rank * self.count * self.element.bytes()) as u64;
        apart
            || match self.function {
                Function::AllGather => from == to + part,
                Function::ReduceScatter(_) => to == from + part,
                _ => from == to,
            }
    }
}

/// Does what calls that fit together ask for, each access checked as that of its rank.
pub(super) fn perform(sim: &mut Sim, parties: &[Party]) {
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
    let first = &parties[0].call;
    let ring = sim.draw(parties.len());
    let part = first.count * first.element.bytes();
    let gathered = match first.function {
        Function::AllReduce(reduction)
        | Function::Reduce { reduction, .. }
        | Function::ReduceScatter(reduction) => reduce(first.element, reduction, &given, ring),
        Function::Broadcast { .. } | Function::AllGather | Function::Send(_) | Function::Receive(_) => {
            given.concat()
        }
    };
    for Party { call, .. } in parties {
        let Some(to) = call.to else {
            continue;
        };
        let result = match call.function {
            Function::ReduceScatter(_) => &gathered[call.rank * part..(call.rank + 1) * part],
            _ => &gathered[..],
        };
        // SAFETY: the range was checked to lie in a live allocation; results have the size that is written.
        unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), to as *mut u8, result.len()) };
    }
}

/// What a call gives, as bytes; nothing where it gives nothing.
fn read(call: &Call) -> Vec<u8> {
    let bytes = |from: u64| {
        // SAFETY: the range was checked to lie in a live allocation.
        unsafe { std::slice::from_raw_parts(from as *const u8, call.bytes_read()) }.to_vec()
    };
    call.from.map(bytes).unwrap_or_default()
}
