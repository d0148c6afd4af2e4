//! NCCL between threads: mistakes, each of which breaks one rule, and programs that make none.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Barrier;
use std::thread;

use cudasim::Rule;

use super::machine::*;

/// One thread's end of a communicator over all devices.
struct Rank<'a> {
    machine: &'a Machine,
    rank: usize,
    ranks: usize,
    comm: Handle,
    stream: Handle,
}

impl Rank<'_> {
    /// Memory in which element i holds `rank + i`.
    fn numbers(&self) -> u64 {
        let values = std::array::from_fn(|i| (self.rank + i) as f32);
        self.machine.holding(&values, self.stream)
    }

    fn all_reduce(&self, from: u64, to: u64) -> c_int {
        ncclAllReduce(from, to, N, FLOAT32, SUM, self.comm, self.stream)
    }

    fn content(&self, address: u64) -> [f32; N] {
        self.machine.content(address, self.stream)
    }

    fn async_error(&self) -> c_int {
        let mut error = 0;
        // SAFETY: writes one number.
        assert_eq!(
            unsafe { ncclCommGetAsyncError(self.comm, &raw mut error) },
            SUCCESS
        );
        error
    }
}

/// A rank's thread: its device is current.
fn on_device<'a>(machine: &'a Machine, id: UniqueId, rank: usize, ranks: usize) -> Rank<'a> {
    machine.enter(rank as c_int);
    let mut comm = null_mut();
    // SAFETY: writes one handle.
    let joined = unsafe { ncclCommInitRank(&raw mut comm, ranks as c_int, id, rank as c_int) };
    assert_eq!(joined, SUCCESS);
    Rank {
        machine,
        rank,
        ranks,
        comm,
        stream: machine.stream(),
    }
}

/// Runs `body` on a thread for each rank. Then, where all is well, what was made is unmade.
fn on_every_rank(machine: &Machine, ranks: usize, body: impl Fn(&Rank<'_>) + Sync) {
    let id = UniqueId::new();
    thread::scope(|scope| {
        for rank in 0..ranks {
            let body = &body;
            scope.spawn(move || {
                let rank = on_device(machine, id, rank, ranks);
                body(&rank);
                cuStreamSynchronize(rank.stream);
                ncclCommDestroy(rank.comm);
                cuStreamDestroy_v2(rank.stream);
            });
        }
    });
}

/// Who waits for ever is to be told soon. Only for programs that do.
fn impatient() {
    // SAFETY: no other thread of the test runs yet.
    unsafe { std::env::set_var("CUDASIM_PATIENCE_MS", "2000") };
}

planted! {
    ranks_that_reduce_different_counts breaks CollectiveMismatch: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            ncclAllReduce(x, x, N - rank.rank, FLOAT32, SUM, rank.comm, rank.stream);
        });
    }
    ranks_that_call_different_functions breaks CollectiveMismatch: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            if rank.rank == 0 {
                rank.all_reduce(x, x);
            } else {
                ncclBroadcast(x, x, N, FLOAT32, 0, rank.comm, rank.stream);
            }
        });
    }
    ranks_that_reduce_by_different_operators breaks CollectiveMismatch: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let (x, operator) = (rank.numbers(), [SUM, MAX][rank.rank]);
            ncclAllReduce(x, x, N, FLOAT32, operator, rank.comm, rank.stream);
        });
    }
    a_receive_that_is_shorter_than_its_send breaks CollectiveMismatch: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            if rank.rank == 0 {
                ncclSend(x, N, FLOAT32, 1, rank.comm, rank.stream);
            } else {
                ncclRecv(x, N / 2, FLOAT32, 0, rank.comm, rank.stream);
            }
        });
    }
    a_rank_that_makes_no_call breaks CollectiveMissing: |machine, _stream| {
        impatient();
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            if rank.rank == 0 {
                rank.all_reduce(x, x);
            }
        });
    }
    a_send_that_nobody_receives breaks CollectiveMissing: |machine, _stream| {
        impatient();
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            if rank.rank == 0 {
                ncclSend(x, N, FLOAT32, 1, rank.comm, rank.stream);
            }
        });
    }
    a_rank_that_never_joins breaks CollectiveMissing: |machine, _stream| {
        impatient(); // it could be of another process
        let mut comm = null_mut();
        // SAFETY: writes one handle.
        assert_ne!(unsafe { ncclCommInitRank(&raw mut comm, 2, UniqueId::new(), 0) }, SUCCESS);
    }
    ranks_that_send_before_they_receive breaks Deadlock: |machine, _stream| {
        impatient();
        on_every_rank(&machine, 2, |rank| {
            let (x, y, peer) = (rank.numbers(), rank.machine.memory(), 1 - rank.rank as c_int);
            ncclSend(x, N, FLOAT32, peer, rank.comm, rank.stream);
            ncclRecv(y, N, FLOAT32, peer, rank.comm, rank.stream);
        });
    }
    two_communicators_in_different_orders breaks Deadlock: |machine, _stream| {
        impatient();
        let second = UniqueId::new();
        on_every_rank(&machine, 2, |rank| {
            let other = on_device(rank.machine, second, rank.rank, rank.ranks);
            let (x, comms) = (rank.numbers(), [rank.comm, other.comm]);
            for comm in [comms[rank.rank], comms[1 - rank.rank]] {
                ncclAllReduce(x, x, N, FLOAT32, SUM, comm, rank.stream);
            }
            cuStreamSynchronize(rank.stream);
            ncclCommDestroy(other.comm);
        });
    }
    a_result_that_overlaps_its_source breaks CollectiveOverlap: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            assert_ne!(ncclAllReduce(x, x + 4, N - 1, FLOAT32, SUM, rank.comm, rank.stream), SUCCESS);
        });
    }
    two_ranks_on_one_device breaks DuplicateDevice: |machine, _stream| {
        let (id, mut comm) = (UniqueId::new(), null_mut());
        ncclGroupStart();
        // SAFETY: each writes one handle.
        let joined = [0, 1].map(|rank| unsafe { ncclCommInitRank(&raw mut comm, 2, id, rank) });
        assert_eq!(joined[0], SUCCESS);
        assert_ne!(joined[1], SUCCESS);
    }
    two_ranks_of_one_number breaks CollectiveMismatch: |machine, _stream| {
        let (id, mut comm) = (UniqueId::new(), null_mut());
        ncclGroupStart();
        // SAFETY: each writes one handle.
        let joined = [0, 0].map(|rank| unsafe { ncclCommInitRank(&raw mut comm, 2, id, rank) });
        assert_ne!(joined[1], SUCCESS);
    }
    a_communicator_that_is_not_ready breaks CommNotReady: |machine, stream| {
        let (x, mut comm) = (machine.zeros(stream), null_mut());
        let config = Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: 22_707, blocking: 0 };
        // SAFETY: reads the configuration, writes one handle.
        let joined = unsafe { ncclCommInitRankConfig(&raw mut comm, 2, UniqueId::new(), 0, &raw const config) };
        assert_eq!(joined, NCCL_IN_PROGRESS);
        assert_ne!(ncclAllReduce(x, x, N, FLOAT32, SUM, comm, stream), SUCCESS);
    }
    a_communicator_that_was_destroyed breaks DeadHandle: |machine, _stream| {
        on_every_rank(&machine, 1, |rank| {
            let x = rank.numbers();
            ncclCommDestroy(rank.comm);
            assert_ne!(rank.all_reduce(x, x), SUCCESS);
        });
    }
    a_communicator_that_is_never_destroyed breaks Leak: |machine, stream| {
        let rank = on_device(&machine, UniqueId::new(), 0, 1);
        cuStreamDestroy_v2(rank.stream);
        cuStreamDestroy_v2(stream);
        cuDevicePrimaryCtxRelease_v2(0);
        cuDevicePrimaryCtxRelease_v2(0);
    }
    a_stream_of_another_rank breaks WrongDevice: |machine, stream| {
        let of_rank_0 = stream as usize;
        on_every_rank(&machine, 2, |rank| {
            let x = rank.numbers();
            if rank.rank == 1 {
                let stream = of_rank_0 as Handle;
                assert_ne!(ncclAllReduce(x, x, N, FLOAT32, SUM, rank.comm, stream), SUCCESS);
            }
        });
    }
    memory_of_another_rank breaks WrongDevice: |machine, stream| {
        let of_rank_0 = machine.zeros(stream);
        on_every_rank(&machine, 2, |rank| {
            if rank.rank == 1 {
                assert_ne!(rank.all_reduce(of_rank_0, of_rank_0), SUCCESS);
            }
        });
    }
    a_source_that_is_overwritten_meanwhile breaks StreamRace: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let (x, y) = (rank.numbers(), rank.machine.memory());
            cuStreamSynchronize(rank.stream);
            rank.all_reduce(x, y);
            if rank.rank == 0 {
                let other = rank.machine.stream();
                cuMemsetD8Async(x, 0, BYTES, other);
                cuStreamSynchronize(other);
            }
        });
    }
    a_result_that_is_read_too_early breaks StreamRace: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let (x, y) = (rank.numbers(), rank.machine.zeros(rank.stream));
            cuStreamSynchronize(rank.stream);
            rank.all_reduce(x, y);
            while is_behind(rank.stream) {}
            rank.machine.content(y, rank.machine.stream());
        });
    }
    a_source_that_nobody_has_written breaks Uninitialised: |machine, _stream| {
        on_every_rank(&machine, 2, |rank| {
            let x = rank.machine.memory();
            rank.all_reduce(x, x);
        });
    }
}

/// Sums, parts and transfers between three ranks; in place and not.
fn exchanges(rank: &Rank<'_>) {
    let ranks = rank.ranks;
    let (x, y) = (rank.numbers(), rank.machine.memory());
    assert_eq!(rank.all_reduce(x, y), SUCCESS);
    let sum = |i: usize| (ranks * i + ranks * (ranks - 1) / 2) as f32;
    assert_eq!(rank.content(y), std::array::from_fn(sum));
    assert_eq!(rank.all_reduce(x, x), SUCCESS);
    assert_eq!(rank.content(x), std::array::from_fn(sum));

    // Every rank reduces its part, and all parts are gathered, in place: an all-reduce in two calls.
    let (z, part) = (rank.numbers(), N / 4);
    let mine = z + (rank.rank * part * size_of::<f32>()) as u64;
    let scattered = ncclReduceScatter(z, mine, part, FLOAT32, SUM, rank.comm, rank.stream);
    assert_eq!(scattered, SUCCESS);
    assert_eq!(
        ncclAllGather(mine, z, part, FLOAT32, rank.comm, rank.stream),
        SUCCESS
    );
    assert_eq!(rank.content(z)[..ranks * part], rank.content(x)[..ranks * part]);

    // Everybody gives everybody, itself too, a slice.
    let (from, to) = (rank.numbers(), rank.machine.zeros(rank.stream));
    ncclGroupStart();
    for peer in 0..ranks {
        let slice = |array: u64| array + (peer * part * size_of::<f32>()) as u64;
        ncclSend(slice(from), part, FLOAT32, peer as c_int, rank.comm, rank.stream);
        ncclRecv(slice(to), part, FLOAT32, peer as c_int, rank.comm, rank.stream);
    }
    assert_eq!(ncclGroupEnd(), SUCCESS);
    let received = rank.content(to);
    for peer in 0..ranks {
        assert_eq!(received[peer * part], (peer + rank.rank * part) as f32);
    }

    let shared = rank.numbers();
    ncclBroadcast(shared, shared, N, FLOAT32, 1, rank.comm, rank.stream);
    assert_eq!(rank.content(shared)[..2], [1.0, 2.0]);
}

/// A collective on a stream of its own, between two events, as a program that hides it behind its computations has it.
fn overlapped(rank: &Rank<'_>) {
    let (machine, compute) = (rank.machine, rank.machine.stream());
    let (ready, reduced) = (machine.event(), machine.event());
    let (x, y) = (machine.memory(), machine.memory());
    for round in 0..4u8 {
        cuMemsetD8Async(x, round, BYTES, compute);
        cuEventRecord(ready, compute);
        cuStreamWaitEvent(rank.stream, ready, 0);
        rank.all_reduce(x, x);
        cuEventRecord(reduced, rank.stream);
        cuMemsetD8Async(y, round, BYTES, compute); // meanwhile
        cuStreamWaitEvent(compute, reduced, 0);
        machine.double(x, y, compute);
    }
    cuStreamSynchronize(compute);
}

#[test]
fn correct_collectives_break_no_rule_under_any_seed() {
    for seed in 0..60 {
        for program in [exchanges, overlapped] {
            let machine = Machine::new(3, seed);
            on_every_rank(&machine, 3, program);
            let reports = machine.reports();
            assert!(reports.is_empty(), "seed {seed}: {reports:?}");
        }
    }
}

#[test]
fn one_thread_can_drive_all_ranks() {
    for seed in 0..20 {
        let machine = Machine::new(2, seed);
        let mut comms = [null_mut(); 2];
        // SAFETY: writes two handles.
        assert_eq!(
            unsafe { ncclCommInitAll(comms.as_mut_ptr(), 2, std::ptr::null()) },
            SUCCESS
        );
        let made: Vec<(Handle, u64)> = (0..2)
            .map(|device| {
                machine.enter(device);
                let stream = machine.stream();
                (stream, machine.holding(&[1.0 + device as f32; N], stream))
            })
            .collect();
        ncclGroupStart();
        for (comm, (stream, x)) in comms.iter().zip(&made) {
            ncclAllReduce(*x, *x, N, FLOAT32, SUM, *comm, *stream);
        }
        assert_eq!(ncclGroupEnd(), SUCCESS);
        for (device, (stream, x)) in made.into_iter().enumerate() {
            machine.enter(device as c_int);
            assert_eq!(machine.content(x, stream), [3.0; N]);
        }
        for comm in comms {
            assert_eq!(ncclCommDestroy(comm), SUCCESS);
        }
        assert_eq!(machine.reports(), []);
    }
}

#[test]
fn a_failure_is_asynchronous_and_ends_with_an_abort() {
    for seed in 0..20 {
        let machine = Machine::new(2, seed);
        cudasim::fail("collective:2");
        let id = UniqueId::new();
        let errors: Vec<c_int> = thread::scope(|scope| {
            let run = |rank| {
                let machine = &machine;
                move || {
                    let rank = on_device(machine, id, rank, 2);
                    let x = rank.numbers();
                    assert_eq!(rank.all_reduce(x, x), SUCCESS, "calls do not fail themselves");
                    let error = loop {
                        match rank.async_error() {
                            SUCCESS => thread::yield_now(),
                            error => break error,
                        }
                    };
                    assert_eq!(ncclCommAbort(rank.comm), SUCCESS);
                    assert_eq!(
                        cuStreamSynchronize(rank.stream),
                        SUCCESS,
                        "nothing hangs any more"
                    );
                    error
                }
            };
            let threads = [0, 1].map(|rank| scope.spawn(run(rank)));
            threads.map(|thread| thread.join().unwrap()).to_vec()
        });
        let mut sorted = errors.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [NCCL_SYSTEM_ERROR, NCCL_REMOTE_ERROR]);
        assert_eq!(machine.reports(), []);
    }
}

/// Nobody touches the memory of a rank that has left, whatever it had begun.
#[test]
fn what_was_aborted_is_not_done_when_others_come() {
    for seed in 0..20 {
        let machine = Machine::new(2, seed);
        let id = UniqueId::new();
        let gone = Barrier::new(2);
        let run = |number| {
            let (machine, gone) = (&machine, &gone);
            move || {
                let rank = on_device(machine, id, number, 2);
                let x = rank.numbers();
                if number == 1 {
                    gone.wait();
                }
                assert_eq!(rank.all_reduce(x, x), SUCCESS);
                // Its stream comes to the meeting.
                for _ in 0..50 {
                    rank.async_error();
                }
                assert_eq!(ncclCommAbort(rank.comm), SUCCESS);
                assert_eq!(cuStreamSynchronize(rank.stream), SUCCESS);
                assert_eq!(cuMemFree_v2(x), SUCCESS);
                if number == 0 {
                    gone.wait();
                }
            }
        };
        thread::scope(|scope| {
            for thread in [0, 1].map(|number| scope.spawn(run(number))) {
                thread.join().unwrap();
            }
        });
        assert_eq!(machine.reports(), []);
    }
}

#[test]
fn a_communicator_that_does_not_block_becomes_ready() {
    let machine = Machine::new(2, 1);
    let id = UniqueId::new();
    thread::scope(|scope| {
        for rank in 0..2 {
            let machine = &machine;
            scope.spawn(move || {
                machine.enter(rank);
                let (mut comm, mut state) = (null_mut(), NCCL_IN_PROGRESS);
                let config = Config {
                    size: size_of::<Config>(),
                    magic: 0xcafe_beef,
                    version: 22_707,
                    blocking: 0,
                };
                // SAFETY: reads the configuration, writes one handle.
                let joined = unsafe { ncclCommInitRankConfig(&raw mut comm, 2, id, rank, &raw const config) };
                assert_eq!(joined, NCCL_IN_PROGRESS);
                while state == NCCL_IN_PROGRESS {
                    // SAFETY: writes one number.
                    unsafe { ncclCommGetAsyncError(comm, &raw mut state) };
                    thread::yield_now();
                }
                assert_eq!(state, SUCCESS);
                ncclCommDestroy(comm);
            });
        }
    });
    assert_eq!(machine.reports(), []);
}
