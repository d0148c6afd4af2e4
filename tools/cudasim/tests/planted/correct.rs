//! Programs that break no rule, under many seeds.

use super::machine::*;

/// A pipeline over three streams, ordered by events, as a loader and a back end have it.
fn pipeline(machine: &Machine) {
    let (copy, compute, back) = (machine.stream(), machine.stream(), machine.stream());
    let (copied, computed, consumed) = (machine.event(), machine.event(), machine.event());
    let (host, result) = (machine.pinned(), machine.pinned());
    let (x, y) = (machine.memory(), machine.memory());
    for round in 0..3 {
        // SAFETY: the last copy out of it is over.
        unsafe { *host = round as f32 };
        cuStreamWaitEvent(copy, computed, 0);
        cuMemcpyHtoDAsync_v2(x, host.cast(), BYTES, copy);
        cuEventRecord(copied, copy);
        cuStreamWaitEvent(compute, copied, 0);
        cuStreamWaitEvent(compute, consumed, 0);
        machine.double(x, y, compute);
        cuEventRecord(computed, compute);
        cuStreamWaitEvent(back, computed, 0);
        cuMemcpyDtoHAsync_v2(result.cast(), y, BYTES, back);
        cuEventRecord(consumed, back);
        cuStreamSynchronize(back);
        // SAFETY: the copy into it is over.
        assert_eq!(unsafe { *result }, 2.0 * round as f32);
    }
}

/// A reduction, and a graph with two branches that is replayed.
fn graph(machine: &Machine) {
    let (stream, other) = (machine.stream(), machine.stream());
    let (fork, join) = (machine.event(), machine.event());
    let (x, y, z) = (machine.zeros(stream), machine.memory(), machine.memory());
    assert_eq!(machine.launch("planted_sum", 1, 256, stream, &[x, y]), SUCCESS);
    cuStreamSynchronize(stream);
    cuStreamBeginCapture_v2(stream, 0);
    cuEventRecord(fork, stream);
    cuStreamWaitEvent(other, fork, 0);
    machine.double(x, z, other);
    machine.double(x, y, stream);
    cuEventRecord(join, other);
    cuStreamWaitEvent(stream, join, 0);
    machine.double(z, x, stream);
    let executable = end_capture(stream);
    for _ in 0..3 {
        assert_eq!(cuGraphLaunch(executable, stream), SUCCESS);
    }
    let mut to = [1f32; N];
    cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), x, BYTES, stream);
    assert_eq!(to, [0.0; N]);
    assert_eq!(cuGraphExecDestroy(executable), SUCCESS);
}

/// Memory of a pool, made on one stream, used on another, freed on a third.
fn pools(machine: &Machine) {
    let (first, second, third) = (machine.stream(), machine.stream(), machine.stream());
    let (made, used) = (machine.event(), machine.event());
    let (pool, mut x) = (machine.pool(), 0);
    let in_use = || {
        let mut bytes = 0;
        // SAFETY: writes one number.
        assert_eq!(unsafe { cuMemPoolGetAttribute(pool, 7, &raw mut bytes) }, SUCCESS);
        bytes as usize
    };
    for _ in 0..3 {
        // SAFETY: writes one address.
        assert_eq!(
            unsafe { cuMemAllocFromPoolAsync(&raw mut x, BYTES, pool, first) },
            SUCCESS
        );
        assert_eq!(in_use(), BYTES);
        cuEventRecord(made, first);
        cuStreamWaitEvent(second, made, 0);
        cuMemsetD8Async(x, 0, BYTES, second);
        cuEventRecord(used, second);
        cuStreamWaitEvent(third, used, 0);
        assert_eq!(cuMemFreeAsync(x, third), SUCCESS);
        cuStreamSynchronize(third);
        assert_eq!(in_use(), 0);
    }
    assert_eq!(cuMemPoolDestroy(pool), SUCCESS);
}

/// Neighbours of 16 bits, in place, in blocks that stand in any order.
fn halves(machine: &Machine) {
    let stream = machine.stream();
    let y = machine.zeros(stream);
    assert_eq!(machine.launch("planted_halves", 2, 256, stream, &[y]), SUCCESS);
    cuStreamSynchronize(stream);
}

#[test]
fn correct_programs_break_no_rule_under_any_seed() {
    for seed in 0..60 {
        for program in [pipeline, graph, pools, halves] {
            let machine = Machine::new(1, seed);
            program(&machine);
            let reports = machine.reports();
            assert!(reports.is_empty(), "seed {seed}: {reports:?}");
        }
    }
}
