//! Ids of communicators, and joining.

use std::collections::btree_map::Entry;
use std::ffi::{c_int, c_void};
use std::hash::{BuildHasher, RandomState};
use std::sync::Once;

use cudarc::nccl::sys::ncclResult_t as Outcome;

use super::{Answer, GROUP, answer, put, refuse};
use crate::api::{current, set_current};
use crate::faults::Call as Fault;
use crate::nccl::board::{Board, MOST_RANKS, Refusal};
use crate::nccl::clique::Clique;
use crate::nccl::{Comm, wire};
use crate::rules::Rule;
use crate::sim::{Handle, Locked, Sim};

/// Bytes of a ncclUniqueId.
const ID_BYTES: usize = 128;

/// Marks an id as the simulator's.
const ID_MAGIC: u64 = 0x6363_6c20_7369_6d20;

/// The beginning of ncclConfig_t: what is read of it.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// ncclUniqueId, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u64; ID_BYTES / 8]);

impl UniqueId {
    /// The number of the communicator, which no other has, and the seed of its sums; `None` for what is not an id.
    fn read(&self) -> Option<(u64, u64)> {
        (self.0[0] == ID_MAGIC).then_some((self.0[1], self.0[2]))
    }
}

/// An id for a communicator that nobody has, in whatever process.
fn new_id(sim: &mut Sim) -> UniqueId {
    sim.nccl.next_clique += 1;
    let mut words = [0; ID_BYTES / 8];
    let number = RandomState::new().hash_one((std::process::id(), sim.nccl.next_clique));
    words[..3].copy_from_slice(&[ID_MAGIC, number, sim.seed]);
    UniqueId(words)
}

/// # Safety
///
/// `id` points to room for 128 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    answer(|sim| {
        let made = new_id(sim);
        // SAFETY: the caller vouches for it.
        unsafe { put(id, made) }
    })
}

/// Who joins what.
struct Joining<'a> {
    id: &'a UniqueId,
    ranks: c_int,
    rank: c_int,
    non_blocking: bool,
    /// Whether all ranks are of this process, for sure.
    at_home: bool,
}

/// The number and seed of a communicator, a rank, and how many there are.
struct Wish {
    number: u64,
    seed: u64,
    rank: usize,
    ranks: usize,
}

impl Joining<'_> {
    fn checked(&self) -> Result<Wish, (Outcome, String)> {
        let invalid = |why: &str| refuse(Outcome::ncclInvalidArgument, why);
        let Some((number, seed)) = self.id.read() else {
            return invalid("ncclGetUniqueId has not made this id");
        };
        let (rank, ranks) = (usize::try_from(self.rank), usize::try_from(self.ranks));
        match (rank, ranks) {
            (Ok(rank), Ok(ranks)) if rank < ranks && ranks <= MOST_RANKS => Ok(Wish {
                number,
                seed,
                rank,
                ranks,
            }),
            _ => invalid(&format!(
                "rank {} of {}; the simulator has {MOST_RANKS} at most",
                self.rank, self.ranks
            )),
        }
    }
}

/// Makes a rank a member of its clique. The communicator can be used once all have joined.
fn join(sim: &mut Sim, joining: &Joining<'_>) -> Result<Handle, (Outcome, String)> {
    let Some(device) = current() else {
        sim.report(
            Rule::NoContext,
            "ncclCommInitRank without a current context".into(),
        );
        return refuse(Outcome::ncclUnhandledCudaError, "no context is current");
    };
    if sim.faults.meet(Fault::Other).is_err() {
        return refuse(Outcome::ncclSystemError, "planned by CUDASIM_FAIL");
    }
    let Wish {
        number,
        seed,
        rank,
        ranks,
    } = joining.checked()?;
    if let Entry::Vacant(place) = sim.nccl.cliques.entry(number) {
        let board = (!joining.at_home).then(|| Board::open(&format!("{number:016x}"), ranks));
        let board = board.transpose().or_else(unavailable)?;
        place.insert(Clique::new(seed, ranks, board));
    }
    take_seat(sim, number, (rank, ranks), device)?;
    let handle = sim.handle();
    sim.nccl.comms.insert(
        handle,
        Comm {
            device,
            clique: number,
            rank,
            error: Outcome::ncclSuccess,
            non_blocking: joining.non_blocking,
            groups: Vec::new(),
        },
    );
    let clique = sim.nccl.cliques.get_mut(&number).expect("made above");
    clique.members[rank] = Some(handle);
    if !clique.is_abroad() {
        clique.board = None; // nobody else is to be met
    }
    at_exit();
    sim.changed();
    Ok(handle)
}

/// Sees to it that the process ends in order: communicators that others wait for in vain, a report of what was sent.
fn at_exit() {
    static ONCE: Once = Once::new();
    unsafe extern "C" {
        /// glibc's: like atexit, with the status.
        fn on_exit(function: unsafe extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    }
    unsafe extern "C" fn end(_: c_int, _: *mut c_void) {
        let sim = Sim::lock();
        let boards = sim
            .nccl
            .cliques
            .values()
            .filter_map(|clique| clique.board.as_ref());
        boards
            .filter(|board| !board.is_complete())
            .for_each(Board::remove_name);
        wire::write_report(&sim);
    }
    // SAFETY: the function lives as long as the process: this library is never unloaded.
    ONCE.call_once(|| unsafe {
        on_exit(end, std::ptr::null_mut());
    });
}

fn unavailable<T>(why: std::io::Error) -> Result<T, (Outcome, String)> {
    refuse(Outcome::ncclSystemError, format!("shared memory: {why}"))
}

/// Checks that a rank can join a clique, and tells other processes that it does.
fn take_seat(sim: &mut Sim, number: u64, (rank, ranks): (usize, usize), device: usize) -> Answer {
    let clique = sim.nccl.cliques.get_mut(&number).expect("made by the caller");
    let members = clique.members.iter().flatten();
    let shared = members
        .map(|other| &sim.nccl.comms[other])
        .find(|other| other.device == device);
    let refused = if clique.members.len() != ranks {
        Err(Refusal::Ranks(clique.members.len()))
    } else if clique.members[rank].is_some() {
        Err(Refusal::Taken)
    } else if let Some(other) = shared {
        Err(Refusal::Device(other.rank))
    } else if let Some(board) = &mut clique.board {
        board.join(rank, device, wire::node_of(device))
    } else {
        Ok(())
    };
    let Err(why) = refused else {
        return Ok(());
    };
    if clique.members.iter().all(Option::is_none) {
        sim.nccl.cliques.remove(&number);
    }
    let (rule, outcome, text) = match why {
        Refusal::System(why) => return unavailable(why),
        Refusal::Ranks(others) => (
            Rule::CollectiveMismatch,
            Outcome::ncclInvalidArgument,
            format!("rank {rank} of {ranks} joins a communicator of {others} ranks"),
        ),
        Refusal::Taken => (
            Rule::CollectiveMismatch,
            Outcome::ncclInvalidArgument,
            format!("rank {rank} of {ranks} joins a communicator which has it already"),
        ),
        Refusal::Device(other) => (
            Rule::DuplicateDevice,
            Outcome::ncclInvalidUsage,
            format!("rank {rank} joins on device {device}, which rank {other} of the communicator has"),
        ),
    };
    sim.report(rule, text.clone());
    refuse(outcome, text)
}

pub(super) fn is_complete(sim: &Sim, comm: Handle) -> bool {
    // A communicator that another thread has aborted is waited for no longer.
    let clique = sim.nccl.comms.get(&comm).map(|comm| comm.clique);
    clique.is_none_or(|clique| sim.nccl.cliques[&clique].is_complete())
}

/// Waits until all ranks have joined.
pub(super) fn wait_for_all(sim: &mut Locked, comm: Handle) -> Answer {
    if sim.nccl.comms[&comm].non_blocking {
        return refuse(Outcome::ncclInProgress, "");
    }
    let settled = |sim: &Sim| is_complete(sim, comm) || is_hopeless(sim, comm);
    let in_time = Sim::wait(sim, "ncclCommInitRank", settled);
    if in_time && !is_hopeless(sim, comm) {
        return Ok(());
    }
    if let Some(board) = board_of(sim, comm) {
        board.remove_name(); // nobody is to join this any more
    }
    if in_time {
        refuse(
            Outcome::ncclRemoteError,
            "another rank has ended before all had joined",
        )
    } else {
        refuse(Outcome::ncclSystemError, "other ranks have not joined")
    }
}

fn board_of(sim: &Sim, comm: Handle) -> Option<&Board> {
    let clique = sim.nccl.comms.get(&comm)?.clique;
    sim.nccl.cliques.get(&clique)?.board.as_ref()
}

/// Whether a communicator will never be complete.
pub(super) fn is_hopeless(sim: &Sim, comm: Handle) -> bool {
    board_of(sim, comm).is_some_and(Board::is_hopeless)
}

fn init(to: *mut *mut c_void, ranks: c_int, id: &UniqueId, rank: c_int, non_blocking: bool) -> c_int {
    answer(|sim| {
        let joining = Joining {
            id,
            ranks,
            rank,
            non_blocking,
            at_home: false,
        };
        let comm = join(sim, &joining)?;
        // SAFETY: the caller of the C function vouches for it.
        unsafe { put(to, comm as *mut c_void)? };
        let in_group = GROUP.with_borrow_mut(|group| {
            if group.depth > 0 {
                group.joined.push(comm);
            }
            group.depth > 0
        });
        if in_group { Ok(()) } else { wait_for_all(sim, comm) }
    })
}

/// # Safety
///
/// `comm` points to room for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(
    comm: *mut *mut c_void,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
) -> c_int {
    init(comm, ranks, &id, rank, false)
}

/// # Safety
///
/// As for [`ncclCommInitRank`]; `config` is null or points to a ncclConfig_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut *mut c_void,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> c_int {
    // SAFETY: the caller vouches for it.
    let non_blocking = unsafe { config.as_ref() }.is_some_and(|config| config.blocking == 0);
    init(comm, ranks, &id, rank, non_blocking)
}

/// # Safety
///
/// `comms` points to room for `count` handles, `devices` is null or points to as many numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(
    comms: *mut *mut c_void,
    count: c_int,
    devices: *const c_int,
) -> c_int {
    let before = current();
    let outcome = answer(|sim| {
        let id = new_id(sim);
        for rank in 0..count {
            // SAFETY: the caller vouches for the array.
            let device = if devices.is_null() {
                rank
            } else {
                unsafe { *devices.add(rank as usize) }
            };
            let known = usize::try_from(device)
                .ok()
                .filter(|device| *device < sim.devices);
            let Some(device) = known else {
                return refuse(
                    Outcome::ncclInvalidArgument,
                    format!("there is no device {device}"),
                );
            };
            set_current(Some(device));
            let joining = Joining {
                id: &id,
                ranks: count,
                rank,
                non_blocking: false,
                at_home: true,
            };
            let comm = join(sim, &joining)?;
            // SAFETY: the caller vouches for the room.
            unsafe { put(comms.add(rank as usize), comm as *mut c_void)? };
        }
        Ok(())
    });
    set_current(before);
    outcome
}
