//! What ranks do. A program is found by its name.

use std::ffi::c_int;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::launcher::Rank;
use super::machine::*;

type Program = fn(&Rank<'_>);

const PROGRAMS: &[(&str, Program)] = &[
    ("everything", everything),
    ("exact", exact),
    ("two communicators", two_communicators),
    ("different counts", different_counts),
    ("different functions", different_functions),
    ("different operators", different_operators),
    ("short receive", short_receive),
    ("no call", no_call),
    ("sends first", sends_first),
    ("absent", absent),
    ("same rank", same_rank),
    ("same device", same_device),
    ("one too many", one_too_many),
    ("other size", other_size),
    ("overwritten", overwritten),
    ("unwritten", unwritten),
    ("watched", watched),
    ("waits to join", waits_to_join),
];

pub fn find(name: &str) -> Program {
    let found = PROGRAMS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no program '{name}'")).1
}

fn all_reduce(rank: &Rank<'_>, comm: Handle, from: u64, to: u64) -> c_int {
    ncclAllReduce(from, to, N, FLOAT32, SUM, comm, rank.stream)
}

/// Everybody gives everybody, itself too, a part; then each part is gathered from its owner.
fn slices(rank: &Rank<'_>, comm: Handle, from: u64, to: u64) {
    let part = N / rank.ranks;
    let slice = |array: u64, peer: usize| array + (peer * part * size_of::<f32>()) as u64;
    ncclGroupStart();
    for peer in 0..rank.ranks {
        let (give, get) = (slice(from, peer), slice(to, peer));
        assert_eq!(
            ncclSend(give, part, FLOAT32, peer as c_int, comm, rank.stream),
            SUCCESS
        );
        assert_eq!(
            ncclRecv(get, part, FLOAT32, peer as c_int, comm, rank.stream),
            SUCCESS
        );
    }
    assert_eq!(ncclGroupEnd(), SUCCESS);
    let mine = slice(to, rank.rank);
    assert_eq!(ncclAllGather(mine, to, part, FLOAT32, comm, rank.stream), SUCCESS);
}

fn leave(rank: &Rank<'_>, comm: Handle) {
    assert_eq!(cuStreamSynchronize(rank.stream), SUCCESS);
    assert_eq!(ncclCommDestroy(comm), SUCCESS);
}

/// Every function, in place and not, many times; says what the arrays hold in the end, to the bit.
fn everything(rank: &Rank<'_>) {
    let comm = rank.join();
    let part = N / rank.ranks;
    let mut held = Vec::new();
    for round in 0..20 {
        let (x, y, z) = (rank.numbers(), rank.numbers(), rank.numbers());
        assert_eq!(all_reduce(rank, comm, x, x), SUCCESS);
        let scattered = z + (rank.rank * part * size_of::<f32>()) as u64;
        ncclReduceScatter(z, scattered, part, FLOAT32, SUM, comm, rank.stream);
        let root = (round % rank.ranks) as c_int;
        ncclBroadcast(y, y, N, FLOAT32, root, comm, rank.stream);
        let to = rank.machine.zeros(rank.stream);
        slices(rank, comm, z, to);
        ncclAllReduce(to, to, N, FLOAT32, MAX, comm, rank.stream);
        for array in [x, y, z, to] {
            held.extend(rank.content(array).map(f32::to_bits));
        }
    }
    leave(rank, comm);
    let hash = held.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, bits| {
        (hash ^ u64::from(*bits)).wrapping_mul(0x100_0000_01B3)
    });
    rank.say(&format!("{hash:016x}"));
}

/// Three rounds of a reduction by slices.
fn exact(rank: &Rank<'_>) {
    let comm = rank.join();
    let (from, to) = (rank.numbers(), rank.machine.zeros(rank.stream));
    (0..3).for_each(|_| slices(rank, comm, from, to));
    leave(rank, comm);
}

/// Two communicators on two streams at once.
fn two_communicators(rank: &Rank<'_>) {
    let comm = rank.join();
    // The id of the second one is given by rank 0, by means of the first.
    let id = rank.machine.zeros(rank.stream);
    if rank.rank == 0 {
        let words = UniqueId::new().0;
        cuMemcpyHtoDAsync_v2(id, words.as_ptr().cast(), size_of_val(&words), rank.stream);
    }
    ncclBroadcast(id, id, 32, FLOAT32, 0, comm, rank.stream);
    let mut words = [0u64; 16];
    cuMemcpyDtoHAsync_v2(words.as_mut_ptr().cast(), id, size_of_val(&words), rank.stream);
    cuStreamSynchronize(rank.stream);
    let second = Rank {
        id: UniqueId(words),
        stream: rank.machine.stream(),
        ..*rank
    };
    let other = second.join();
    let (x, y) = (rank.numbers(), second.numbers());
    for _ in 0..10 {
        all_reduce(rank, comm, x, x);
        all_reduce(&second, other, y, y);
    }
    let held = [rank.content(x), second.content(y)];
    leave(rank, comm);
    leave(&second, other);
    rank.say(&format!("{:x}", held[0][3].to_bits() ^ held[1][5].to_bits()));
}

fn different_counts(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.numbers());
    ncclAllReduce(x, x, N - rank.rank, FLOAT32, SUM, comm, rank.stream);
    leave(rank, comm);
}

fn different_functions(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.numbers());
    if rank.rank == 0 {
        all_reduce(rank, comm, x, x);
    } else {
        ncclBroadcast(x, x, N, FLOAT32, 0, comm, rank.stream);
    }
    leave(rank, comm);
}

fn different_operators(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.numbers());
    let operator = if rank.rank == 0 { SUM } else { MAX };
    ncclAllReduce(x, x, N, FLOAT32, operator, comm, rank.stream);
    leave(rank, comm);
}

fn short_receive(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.numbers());
    if rank.rank == 0 {
        ncclSend(x, N, FLOAT32, 1, comm, rank.stream);
    } else {
        ncclRecv(x, N / 2, FLOAT32, 0, comm, rank.stream);
    }
    leave(rank, comm);
}

fn no_call(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.numbers());
    if rank.rank == 0 {
        all_reduce(rank, comm, x, x);
        cuStreamSynchronize(rank.stream);
        ncclCommAbort(comm);
    } else {
        sleep(Duration::from_secs(3)); // until the other has given up
        ncclCommDestroy(comm);
    }
}

fn sends_first(rank: &Rank<'_>) {
    let (comm, x, peer) = (rank.join(), rank.numbers(), 1 - rank.rank as c_int);
    ncclSend(x, N, FLOAT32, peer, comm, rank.stream);
    ncclRecv(x, N, FLOAT32, peer, comm, rank.stream);
    cuStreamSynchronize(rank.stream);
    ncclCommAbort(comm);
}

fn absent(rank: &Rank<'_>) {
    if rank.rank == 0 {
        assert_eq!(rank.try_join(rank.ranks, 0).0, NCCL_SYSTEM_ERROR);
    }
}

/// One of the two that join like this is refused.
fn collide(rank: &Rank<'_>, ranks: usize, number: usize) {
    let (joined, comm) = rank.begin_to_join(ranks, number);
    sleep(Duration::from_secs(1)); // until the other has tried, too
    if joined == NCCL_IN_PROGRESS {
        assert_eq!(ncclCommAbort(comm), SUCCESS);
    }
}

fn same_rank(rank: &Rank<'_>) {
    collide(rank, rank.ranks, 0);
}

/// A communicator of two that three processes want to join, the second of them as rank 0, too: the others do not notice.
fn one_too_many(rank: &Rank<'_>) {
    sleep(Duration::from_millis(400) * rank.rank as u32);
    let (joined, comm) = rank.try_join(2, rank.rank / 2);
    if rank.rank == 1 {
        assert_ne!(joined, SUCCESS);
        return;
    }
    let x = rank.numbers();
    assert_eq!(all_reduce(rank, comm, x, x), SUCCESS);
    leave(rank, comm);
}

fn same_device(rank: &Rank<'_>) {
    rank.machine.enter(0);
    assert_ne!(rank.try_join(rank.ranks, rank.rank).0, SUCCESS);
}

fn other_size(rank: &Rank<'_>) {
    collide(rank, rank.ranks + rank.rank, rank.rank);
}

fn overwritten(rank: &Rank<'_>) {
    let (comm, x, y) = (rank.join(), rank.numbers(), rank.machine.memory());
    cuStreamSynchronize(rank.stream);
    all_reduce(rank, comm, x, y);
    let other = rank.machine.stream();
    cuMemsetD8Async(x, 0, BYTES, other);
    cuStreamSynchronize(other);
    leave(rank, comm);
}

fn unwritten(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.machine.memory());
    all_reduce(rank, comm, x, x);
    leave(rank, comm);
}

/// How long a rank that watches its communicator waits for a collective.
const LONG: Duration = Duration::from_secs(2);

/// Reduces again and again until that fails, as a program with a watchdog does it: nothing is waited for without an end.
fn watched(rank: &Rank<'_>) {
    let (comm, x) = (rank.join(), rank.machine.zeros(rank.stream));
    rank.say("joined");
    let why = 'rounds: loop {
        assert_eq!(all_reduce(rank, comm, x, x), SUCCESS);
        let begun = Instant::now();
        while is_behind(rank.stream) {
            let mut error = SUCCESS;
            // SAFETY: writes one number.
            unsafe { ncclCommGetAsyncError(comm, &raw mut error) };
            if error != SUCCESS {
                break 'rounds format!("error {error}");
            }
            if begun.elapsed() > LONG {
                break 'rounds "hangs".to_owned();
            }
            sleep(Duration::from_micros(100));
        }
    };
    assert_eq!(ncclCommAbort(comm), SUCCESS);
    assert_eq!(
        cuStreamSynchronize(rank.stream),
        SUCCESS,
        "nothing hangs any more"
    );
    rank.say(&why);
}

/// Joins; the last rank never does.
fn waits_to_join(rank: &Rank<'_>) {
    if rank.rank + 1 < rank.ranks {
        let joined = rank.try_join(rank.ranks, rank.rank).0;
        rank.say(&format!("error {joined}"));
    }
}
