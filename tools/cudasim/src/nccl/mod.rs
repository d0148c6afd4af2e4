//! NCCL between the threads of one process and between processes: communicators, and how the calls of their ranks meet.
//!
//! A call on a communicator is one side of a meeting: all ranks take part in collective number k, the sender and the
//! receiver in transfer number k from one to the other. A group of calls is two operations on a stream ([`Group`]): the
//! first brings the calls to their meetings, the second can run when all of them are over. The last side that comes to
//! a meeting does the work ([`collective`]) for all of them. That is so where all ranks are of one process; between
//! processes every side does its own part ([`abroad`]), by what all have posted on a [`board`] in shared memory.
//!
//! As with the real library a collective orders nothing but its own data, and ends for one rank before it ends for
//! others. An error is asynchronous: it shows in ncclCommGetAsyncError, and what was under way hangs until the
//! communicator is aborted.

mod abroad;
mod api;
mod arithmetic;
mod board;
mod clique;
mod collective;
mod wire;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::nccl::sys::ncclResult_t as Outcome;

pub use self::wire::Wire;
pub(crate) use self::wire::node_of;

use self::clique::{Channel, Clique};
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
    /// Of each device.
    wire: BTreeMap<usize, Wire>,
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
            seats.push(Seat {
                call,
                channel,
                number: clique.count_call(channel, side),
                side,
            });
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
        for (index, seat) in group.calls.iter().enumerate() {
            let Some(clique) = self.nccl.cliques.get_mut(&group.clique) else {
                return;
            };
            if seat.call.lost {
                continue;
            }
            if clique.is_abroad() {
                self.post(group, index, who);
                continue;
            }
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
            self.hold(group.clique, seat.number, &parties);
            parties.iter().for_each(|party| party.group.finish_one());
        }
    }

    /// A meeting: all of its parties are there.
    fn hold(&mut self, clique: u64, number: u64, parties: &[Party]) {
        let first = &parties[0];
        if let Some(other) = parties.iter().find(|party| !party.call.matches(&first.call)) {
            let text = format!("{} meets {}", first.call, other.call);
            self.report(Rule::CollectiveMismatch, text);
            self.fail(clique, Outcome::ncclInvalidUsage);
            return;
        }
        let ring = self.ring(clique, number, parties.len());
        for party in parties {
            self.count_wire(clique, &party.call, ring);
        }
        collective::perform(self, parties, ring);
    }

    /// Where the ring begins in which a meeting adds up: for all of its ranks the same, in whatever process they are.
    fn ring(&self, clique: u64, number: u64, sides: usize) -> usize {
        let seed = self.nccl.cliques.get(&clique).map_or(0, |clique| clique.seed);
        let mixed = seed.wrapping_add(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) as usize % sides
    }

    /// An asynchronous error of all ranks of this process.
    fn fail(&mut self, clique: u64, error: Outcome) {
        for comm in self.nccl.comms.values_mut().filter(|comm| comm.clique == clique) {
            if comm.error == Outcome::ncclSuccess {
                comm.error = error;
            }
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
        let ranks = clique.members.len();
        let absent: Vec<String> = (0..ranks)
            .filter(|rank| !clique.has_joined(*rank))
            .map(|rank| rank.to_string())
            .collect();
        Some(format!("rank {} of {ranks} has not joined", absent.join(", ")))
    }

    /// Which calls a group waits for that their ranks have not made; `None` where all were made.
    pub(crate) fn missing(&self, group: &Group) -> Option<String> {
        let clique = self.nccl.cliques.get(&group.clique)?;
        for seat in &group.calls {
            let missing: Vec<String> = (0..clique.sides(seat.channel))
                .filter(|side| clique.called(seat.channel, *side) <= seat.number)
                .map(|side| seat.channel.rank_of(side).to_string())
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
