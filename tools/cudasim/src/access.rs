//! One access to device memory, held against everything that is known about the memory.

use std::sync::Arc;

use crate::clock::Clock;
use crate::graph::Nodes;
use crate::memory::{Stamp, Touch, Word};
use crate::rules::Rule;
use crate::sim::Sim;

/// How memory is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// Reads and writes in one.
    Atomic,
}

/// Who touches memory: an operation, or a thread of one.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    /// The kernel, or the driver's function.
    pub(crate) name: Arc<str>,
    pub(crate) stamp: Stamp,
    /// What happened before the operation.
    pub(crate) clock: Arc<Clock>,
    /// In the replay of a graph: the nodes that come before this one.
    pub(crate) before: Nodes,
}

impl Sim {
    /// Checks and records an access of `bytes` bytes. Says whether it may be made: an access to memory that is not there
    /// may not.
    pub(crate) fn access(&mut self, who: &Who, address: u64, bytes: u64, kind: Kind) -> bool {
        let mut at = address;
        while at < address + bytes {
            let next = (at | 3) + 1;
            let end = next.min(address + bytes);
            // The bytes of this word, as a mask.
            let touched = (((1u32 << (end - at)) - 1) << (at & 3)) as u8;
            if !self.memory.is_live(at) {
                self.report_wild(who, address, bytes, kind);
                return false;
            }
            let word = self.memory.touch(at);
            let (written, conflict) = (word.written, conflict(who, word, kind, touched));
            record(word, &who.stamp, kind, touched);
            if kind != Kind::Write && written & touched != touched {
                let verb = verb(kind);
                self.report(
                    Rule::Uninitialised,
                    format!(
                        "{} {verb} memory that nobody has written ({})",
                        who.name,
                        self.place(at)
                    ),
                );
            }
            if written == 0 && self.is_unborn(who, at) {
                let text = format!("{} {} it ({})", who.name, verb(kind), self.place(at));
                self.report(Rule::UsedBeforeAllocated, text);
            }
            if let Some((rule, other)) = conflict {
                let text = format!(
                    "{} {} what {other} without an order between them ({})",
                    who.name,
                    verb(kind),
                    self.place(at)
                );
                self.report(rule, text);
            }
            at = next;
        }
        true
    }

    /// Checks and records an operation's access to a whole range, which must lie in one allocation.
    pub(crate) fn access_range(&mut self, who: &Who, address: u64, bytes: u64, kind: Kind) -> bool {
        if bytes == 0 {
            return true;
        }
        if let Err(why) = self.memory.holding(address, bytes) {
            let freed = self.memory.is_device(address) && self.memory.near(address).is_some_and(|a| a.freed);
            let rule = if freed {
                Rule::UseAfterFree
            } else {
                Rule::CopyRange
            };
            self.report(rule, format!("{}: {why}", who.name));
            return false;
        }
        self.access(who, address, bytes, kind)
    }

    fn report_wild(&mut self, who: &Who, address: u64, bytes: u64, kind: Kind) {
        let why = self
            .memory
            .holding(address, bytes)
            .err()
            .unwrap_or_else(|| "no memory".into());
        let inside_freed = self
            .memory
            .near(address)
            .is_some_and(|a| a.freed && address < a.address + a.bytes.max(1));
        let rule = if inside_freed {
            Rule::UseAfterFree
        } else {
            Rule::OutOfBounds
        };
        let text = format!("{} {} {bytes} bytes out of bounds: {why}", who.name, verb(kind));
        self.report(rule, text);
    }

    /// Whether an address is in memory that another stream has allocated, without an order between that and this use.
    fn is_unborn(&self, who: &Who, address: u64) -> bool {
        let allocation = self.memory.near(address);
        allocation.is_some_and(|allocation| unordered(who, &allocation.born).is_some())
    }

    /// Where an address lies, for reports.
    fn place(&self, address: u64) -> String {
        match self.memory.near(address) {
            Some(a) => format!("allocation of {} bytes", a.bytes),
            None => "no allocation".into(),
        }
    }
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "reads",
        Kind::Write => "writes",
        Kind::Atomic => "atomically updates",
    }
}

/// The rule that the access breaks, and what the other side did.
fn conflict(who: &Who, found: &Word, kind: Kind, touched: u8) -> Option<(Rule, &'static str)> {
    let both_atomic = kind == Kind::Atomic && found.atomic;
    if !both_atomic && let Some(rule) = collision(who, &found.write, touched) {
        return Some((rule, "another has written"));
    }
    if kind == Kind::Read {
        return None;
    }
    // An atomic update reads, too; those of others are ordered by being atomic.
    if both_atomic {
        return None;
    }
    let rule = collision(who, &found.read, touched)?;
    Some((rule, "another has read"))
}

/// The rule that an access to some bytes of a word breaks by what others have done to them.
fn collision(who: &Who, others: &Touch, touched: u8) -> Option<Rule> {
    let shared = others.bytes & touched;
    let (me, other) = (&who.stamp, &others.stamp);
    if shared == 0 || other.lane == 0 {
        return None;
    }
    if me.launch == 0 || me.launch != other.launch {
        return unordered(who, other);
    }
    if me.block != other.block {
        return Some(Rule::GridRace);
    }
    let other_thread = |half: usize| shared & HALVES[half] != 0 && others.threads[half] != me.thread;
    let races = me.interval == other.interval && (0..HALVES.len()).any(other_thread);
    races.then_some(Rule::BlockRace)
}

/// The rule that the access of an earlier operation breaks if neither happens before the other.
pub(crate) fn unordered(who: &Who, other: &Stamp) -> Option<Rule> {
    let me = &who.stamp;
    let ordered = if other.lane != me.lane {
        other.lane == 0 || who.clock.has_seen(other.lane, other.time)
    } else if other.time == me.time {
        // Of one replay of a graph.
        other.node == me.node || who.before.contains(other.node)
    } else {
        true
    };
    (!ordered).then_some(Rule::StreamRace)
}

/// Thread number of a stamp that stands for several threads.
pub(crate) const SEVERAL: u32 = u32::MAX;

/// The bytes of the halves of a word.
const HALVES: [u8; 2] = [0b0011, 0b1100];

fn record(word: &mut Word, stamp: &Stamp, kind: Kind, touched: u8) {
    if kind == Kind::Read {
        join(&mut word.read, stamp, touched);
    } else {
        join(&mut word.write, stamp, touched);
        word.atomic = kind == Kind::Atomic;
        word.written |= touched;
    }
}

/// What is known about a word after an access. Threads of one barrier interval that touch it share it: whoever conflicts
/// with one of its halves then conflicts with one of them.
fn join(touch: &mut Touch, stamp: &Stamp, bytes: u8) {
    let interval = |stamp: &Stamp| (stamp.launch, stamp.block, stamp.interval);
    if stamp.launch == 0 || interval(&touch.stamp) != interval(stamp) {
        *touch = Touch {
            stamp: *stamp,
            threads: [stamp.thread; 2],
            bytes,
        };
        return;
    }
    for (thread, half) in touch.threads.iter_mut().zip(HALVES) {
        let (before, now) = (touch.bytes & half != 0, bytes & half != 0);
        *thread = match (before, now) {
            (_, false) => *thread,
            (false, true) => stamp.thread,
            (true, true) if *thread == stamp.thread => stamp.thread,
            (true, true) => SEVERAL,
        };
    }
    touch.stamp = *stamp;
    touch.bytes |= bytes;
}
