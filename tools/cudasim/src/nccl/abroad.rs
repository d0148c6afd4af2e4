//! Meetings between processes. Each side posts on the board of its communicator what it asks for and gives; a side that
//! finds the posts of all others does its own part of the work. So one may be done long before others, and no process
//! does anything for another.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use super::Group;
use super::board::{Board, Post};
use super::clique::Clique;
use super::collective::{self, Call, Function, Meeting};
use crate::access::{Kind as Access, Who};
use crate::rules::Rule;
use crate::sim::Sim;

/// How often is looked whether those who are waited for are still there.
const LOOK: Duration = Duration::from_millis(10);

/// A call of this process that has come to its meeting and waits for the other sides.
pub(super) struct Pending {
    group: Arc<Group>,
    /// Which call of the group.
    index: usize,
    who: Who,
    given: Vec<u8>,
}

impl Sim {
    /// Brings a call to a meeting with other processes.
    pub(super) fn post(&mut self, group: &Arc<Group>, index: usize, who: &Who) {
        let seat = &group.calls[index];
        let mut given = Vec::new();
        if let Some(from) = seat.call.from {
            given = if self.access_range(who, from, seat.call.bytes_read() as u64, Access::Read) {
                collective::read(&seat.call)
            } else {
                vec![0; seat.call.bytes_read()] // reported; the others are not to hang for it
            };
        }
        let Some(clique) = self.nccl.cliques.get_mut(&group.clique) else {
            return;
        };
        let readers = clique.sides(seat.channel) - 1;
        let Some(board) = &mut clique.board else {
            return;
        };
        let place = (seat.channel, seat.number, seat.side);
        if let Err(why) = board.post(place, &seat.call, &given, readers) {
            return self.lose(group.clique, &why);
        }
        clique.pending.push(Pending {
            group: Arc::clone(group),
            index,
            who: who.clone(),
            given,
        });
    }

    /// Does what has become possible by what other processes have posted.
    pub(crate) fn hear(&mut self) {
        let waits = |clique: &Clique| !clique.pending.is_empty();
        let cliques = self.nccl.cliques.iter().filter(|(_, clique)| waits(clique));
        let numbers: Vec<u64> = cliques.map(|(number, _)| *number).collect();
        for number in numbers {
            let all = self
                .nccl
                .cliques
                .get_mut(&number)
                .map(|clique| std::mem::take(&mut clique.pending));
            let mut open = Vec::new();
            for pending in all.into_iter().flatten() {
                if pending.group.is_done() {
                    continue; // aborted
                }
                match self.others(&pending) {
                    Some(posts) => self.hold_abroad(&pending, &posts),
                    None => open.push(pending),
                }
            }
            if let Some(clique) = self.nccl.cliques.get_mut(&number) {
                clique.pending = open;
            }
            self.look_after(number);
        }
    }

    /// What the other sides of a call have posted, side by side with `None` for its own, once all have.
    fn others(&self, pending: &Pending) -> Option<Vec<Option<Post>>> {
        let seat = &pending.group.calls[pending.index];
        let clique = self.nccl.cliques.get(&pending.group.clique)?;
        let board = clique.board.as_ref()?;
        let find = |side| {
            if side == seat.side {
                Some(None)
            } else {
                board.find(seat.channel, seat.number, side).map(Some)
            }
        };
        (0..clique.sides(seat.channel)).map(find).collect()
    }

    /// This side's part of a meeting for which all are there.
    fn hold_abroad(&mut self, pending: &Pending, posts: &[Option<Post>]) {
        let number = pending.group.clique;
        let call = &pending.group.calls[pending.index].call;
        let ring = self.ring(number, pending.group.calls[pending.index].number, posts.len());
        if let Some(other) = posts.iter().flatten().find(|post| !post.call.matches(call)) {
            let text = format!("{call} meets {}", other.call);
            self.report(Rule::CollectiveMismatch, text);
            self.fail(number, Outcome::ncclInvalidUsage);
        } else {
            self.count_wire(number, call, ring);
            self.get(pending, posts, ring);
        }
        if let Some(board) = self.board(number) {
            posts.iter().flatten().for_each(|post| board.done_with(post));
        }
        pending.group.finish_one();
        self.changed();
    }

    fn board(&self, clique: u64) -> Option<&Board> {
        self.nccl.cliques.get(&clique)?.board.as_ref()
    }

    /// Gives a call what it gets.
    fn get(&mut self, pending: &Pending, posts: &[Option<Post>], ring: usize) {
        let call = &pending.group.calls[pending.index].call;
        let Some(to) = call.to else {
            return;
        };
        if !self.access_range(&pending.who, to, call.bytes_written() as u64, Access::Write) {
            return; // reported
        }
        let Some(board) = self.board(pending.group.clique) else {
            return;
        };
        match result(board, call, &pending.given, posts, ring) {
            Ok(result) => collective::write(call, &result),
            Err(why) => self.lose(pending.group.clique, &why),
        }
    }

    /// A communicator whose board does not do what it should.
    fn lose(&mut self, clique: u64, why: &io::Error) {
        self.nccl.last_error = std::ffi::CString::new(format!("shared memory: {why}")).unwrap_or_default();
        self.fail(clique, Outcome::ncclSystemError);
    }

    /// Finds, from time to time, that somebody who is waited for will not come any more.
    fn look_after(&mut self, number: u64) {
        let Some(clique) = self.nccl.cliques.get_mut(&number) else {
            return;
        };
        if clique.looked.elapsed() < LOOK {
            return;
        }
        clique.looked = Instant::now();
        if clique.pending.iter().any(|pending| clique.waits_in_vain(pending)) {
            self.fail(number, Outcome::ncclRemoteError);
        }
    }

    /// Whether another process may do what is waited for.
    pub(crate) fn expects_others(&self) -> bool {
        let expects =
            |clique: &Clique| clique.board.is_some() && (!clique.is_complete() || clique.is_abroad());
        self.nccl.cliques.values().any(expects)
    }

    /// A number that changes when something happens in a process that this one meets.
    pub(crate) fn beats(&self) -> u64 {
        let boards = self
            .nccl
            .cliques
            .values()
            .filter_map(|clique| clique.board.as_ref());
        boards.map(Board::beats).fold(0, u64::wrapping_add)
    }

    /// Tells other processes that something has happened here.
    pub(crate) fn beat(&self) {
        let boards = self
            .nccl
            .cliques
            .values()
            .filter_map(|clique| clique.board.as_ref());
        boards.for_each(Board::beat);
    }
}

impl Clique {
    /// Whether a side that has not come is lost.
    fn waits_in_vain(&self, pending: &Pending) -> bool {
        let seat = &pending.group.calls[pending.index];
        let Some(board) = &self.board else {
            return false;
        };
        (0..self.sides(seat.channel)).any(|side| {
            // A post of a rank that has ended since counts: looked for last.
            board.is_lost(seat.channel.rank_of(side)) && board.find(seat.channel, seat.number, side).is_none()
        })
    }
}

/// What a call gets.
fn result(
    board: &Board,
    call: &Call,
    mine: &[u8],
    posts: &[Option<Post>],
    ring: usize,
) -> io::Result<Vec<u8>> {
    let range = match call.function {
        Function::ReduceScatter(_) => call.part(),
        Function::AllReduce(_)
        | Function::Reduce { .. }
        | Function::Broadcast { .. }
        | Function::AllGather
        | Function::Send(_)
        | Function::Receive(_) => 0..call.count * call.element.bytes(),
    };
    let given = posts.iter().map(|post| match post {
        Some(post) => board.given(post, range.clone()),
        None if mine.is_empty() => Ok(Vec::new()),
        None => Ok(mine[range.clone()].to_vec()),
    });
    let given: Vec<Vec<u8>> = given.collect::<io::Result<_>>()?;
    let meeting = Meeting {
        call,
        ring,
        given: &given,
        first: range.start / call.element.bytes(),
    };
    Ok(meeting.result())
}
