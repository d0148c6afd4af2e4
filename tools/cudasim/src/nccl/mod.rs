//! NCCL between the threads of one process: communicators, and how the calls of their ranks meet.
//!
//! A call on a communicator is one side of a meeting: all ranks take part in collective number k, the sender and the
//! receiver in transfer number k from one to the other. A group of calls is two operations on a stream ([`Group`]): the
//! first brings the calls to their meetings, the second can run when all of them are over. The last side that comes to
//! a meeting does the work ([`collective`]) for all of them.
//!
//! As with the real library a collective orders nothing but its own data, and ends for one rank before it ends for
//! others. An error is asynchronous: it shows in ncclCommGetAsyncError, and what was under way hangs until the
//! communicator is aborted.

mod api;
mod arithmetic;
mod collective;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::nccl::sys::ncclResult_t as Outcome;

use self::collective::Call;
use crate::access::Who;
use crate::rules::Rule;
use crate::sim::{Action, Handle, Sim};

/// Communicators of the machine.
#[derive(Default)]
pub(crate) struct Nccl {
    comms: BTreeMap<Handle, Comm>,
    /// By the number in their unique id.
    cliques: BTreeMap<u64, Clique>,
    next_clique: u64,
    last_error: CString,
}

/// One rank's end of a communicator.
pub(crate) struct Comm {
    pub(crate) device: usize,
    clique: u64,
    rank: usize,
    /// What ncclCommGetAsyncError answers once all ranks have joined.
    error: Outcome,
    /// Whether calls may return before they are done.
    non_blocking: bool,
    groups: Vec<Arc<Group>>,
}

/// All ranks of one communicator.
struct Clique {
    /// The communicator of each rank that has joined.
    members: Vec<Option<Handle>>,
    /// How many calls each side of a channel has made.
    called: BTreeMap<(Channel, usize), u64>,
    meetings: BTreeMap<(Channel, u64), Vec<Option<Party>>>,
}

/// What calls are counted by: those of one channel meet in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    Collective,
    /// Sides: 0 sends, 1 receives.
    Transfer {
        from: usize,
        to: usize,
    },
}

/// One side of a meeting, once its stream has come to it.
struct Party {
    call: Call,
    who: Who,
    group: Arc<Group>,
}

/// The calls of a group on one stream.
pub(crate) struct Group {
    clique: u64,
    calls: Vec<Seat>,
    open: AtomicUsize,
}

/// A call, and the meeting that it takes part in.
struct Seat {
    call: Call,
    channel: Channel,
    number: u64,
    side: usize,
}

impl Group {
    pub(crate) fn is_done(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// All calls are over, whatever has become of them.
    pub(crate) fn finish(&self) {
        self.open.store(0, Ordering::Relaxed);
    }

    fn finish_one(&self) {
        let _ = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| open.checked_sub(1));
    }
}

impl Clique {
    fn is_complete(&self) -> bool {
        self.members.iter().all(Option::is_some)
    }

    fn sides(&self, channel: Channel) -> usize {
        match channel {
            Channel::Collective => self.members.len(),
            Channel::Transfer { .. } => 2,
        }
    }

    /// The rank that sits on a side.
    fn rank_of(channel: Channel, side: usize) -> usize {
        match channel {
            Channel::Collective => side,
            Channel::Transfer { from, to } => [from, to][side],
        }
    }
}

impl Nccl {
    /// Communicators that were not destroyed.
    pub(crate) fn leaks(&self, device: usize) -> usize {
        self.comms.values().filter(|comm| comm.device == device).count()
    }
}

impl Sim {
    /// Puts the calls that one group makes on one communicator and stream into the stream. Both exist.
    fn enqueue_group(&mut self, comm: Handle, stream: Handle, calls: Vec<Call>) {
        let (number, rank) = {
            let comm = &self.nccl.comms[&comm];
            (comm.clique, comm.rank)
        };
        let clique = self.nccl.cliques.get_mut(&number).expect("its members exist");
        let name = calls[0].name();
        let mut seats = Vec::with_capacity(calls.len());
        for call in calls {
            let (channel, side) = call.seat(rank);
            let called = clique.called.entry((channel, side)).or_default();
            seats.push(Seat {
                call,
                channel,
                number: *called,
                side,
            });
            *called += 1;
        }
        let group = Arc::new(Group {
            clique: number,
            open: AtomicUsize::new(seats.len()),
            calls: seats,
        });
        let comm = self.nccl.comms.get_mut(&comm).expect("checked by the caller");
        comm.groups.retain(|group| !group.is_done());
        comm.groups.push(Arc::clone(&group));
        self.enqueue(stream, name, Action::Meet(Arc::clone(&group)));
        self.enqueue(stream, name, Action::Part(group));
    }

    /// Brings the calls of a group to their meetings; those that are complete take place.
    pub(crate) fn meet(&mut self, group: &Arc<Group>, who: &Who) {
        if group.is_done() {
            return; // aborted
        }
        for seat in &group.calls {
            let Some(clique) = self.nccl.cliques.get_mut(&group.clique) else {
                return;
            };
            let sides = clique.sides(seat.channel);
            let key = (seat.channel, seat.number);
            let meeting = clique.meetings.entry(key).or_default();
            meeting.resize_with(sides, || None);
            meeting[seat.side] = Some(Party {
                call: seat.call.clone(),
                who: who.clone(),
                group: Arc::clone(group),
            });
            if meeting.iter().any(Option::is_none) {
                continue;
            }
            let parties: Vec<Party> = clique
                .meetings
                .remove(&key)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            self.hold(group.clique, &parties);
            parties.iter().for_each(|party| party.group.finish_one());
        }
    }

    /// A meeting: all of its parties are there.
    fn hold(&mut self, clique: u64, parties: &[Party]) {
        let first = &parties[0];
        if let Some(other) = parties.iter().find(|party| !party.call.matches(&first.call)) {
            let text = format!("{} meets {}", first.call, other.call);
            self.report(Rule::CollectiveMismatch, text);
            self.fail(clique, Outcome::ncclInvalidUsage);
            return;
        }
        collective::perform(self, parties);
    }

    /// An asynchronous error of all ranks.
    fn fail(&mut self, clique: u64, error: Outcome) {
        for comm in self.nccl.comms.values_mut().filter(|comm| comm.clique == clique) {
            comm.error = error;
        }
    }

    /// Ends what is under way on some communicators, undone.
    pub(crate) fn release_groups(&mut self, which: impl Fn(&Comm) -> bool) {
        for comm in self.nccl.comms.values().filter(|comm| which(comm)) {
            comm.groups.iter().for_each(|group| group.finish());
        }
    }

    /// Which ranks have not joined a communicator that others have joined.
    pub(crate) fn absent(&self) -> Option<String> {
        let clique = self.nccl.cliques.values().find(|clique| !clique.is_complete())?;
        let members = clique.members.iter().enumerate();
        let absent: Vec<String> = members
            .filter(|(_, member)| member.is_none())
            .map(|(rank, _)| rank.to_string())
            .collect();
        Some(format!(
            "rank {} of {} has not joined",
            absent.join(", "),
            clique.members.len()
        ))
    }

    /// Which calls a group waits for that their ranks have not made; `None` where all were made.
    pub(crate) fn missing(&self, group: &Group) -> Option<String> {
        let clique = self.nccl.cliques.get(&group.clique)?;
        for seat in &group.calls {
            let sides = clique.sides(seat.channel);
            let called = |side: usize| clique.called.get(&(seat.channel, side)).copied().unwrap_or(0);
            let missing: Vec<String> = (0..sides)
                .filter(|side| called(*side) <= seat.number)
                .map(|side| Clique::rank_of(seat.channel, side).to_string())
                .collect();
            if !missing.is_empty() {
                return Some(format!(
                    "{}, number {} of its communicator, was not called by rank {}",
                    seat.call,
                    seat.number + 1,
                    missing.join(", ")
                ));
            }
        }
        None
    }
}
