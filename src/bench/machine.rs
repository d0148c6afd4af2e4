//! The machine, measured in the same run as what is compared with it.

use std::sync::Barrier;
use std::time::Instant;

use crate::plan::Rates;

/// What `threads` threads of the CPU reach, the best of several short tries: single-precision FLOP/s with nothing but
/// fused multiply-adds on registers, and bytes/s of copies between blocks larger than the caches, read and written
/// together.
pub fn rates(threads: usize) -> Rates {
    const TRIES: usize = 5;
    let mut blocks: Vec<CopyBlock> = (0..threads).map(|_| CopyBlock::new()).collect();
    let flops = (0..TRIES).map(|_| try_peak(threads)).fold(0.0, f64::max);
    let bandwidth = (0..TRIES).map(|_| try_copy(&mut blocks)).fold(0.0, f64::max);
    Rates { flops, bandwidth }
}

/// What one thread copies, and where to: 64 MB each.
struct CopyBlock {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl CopyBlock {
    const LEN: usize = 16 << 20;

    /// Both touched, so that the system has given the pages.
    fn new() -> Self {
        Self {
            from: vec![1.0; Self::LEN],
            to: vec![2.0; Self::LEN],
        }
    }
}

fn try_copy(blocks: &mut [CopyBlock]) -> f64 {
    let bytes = 2 * blocks.len() * CopyBlock::LEN * size_of::<f32>();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for block in blocks {
            scope.spawn(|| {
                std::hint::black_box(&mut block.to).copy_from_slice(std::hint::black_box(&block.from))
            });
        }
    });
    bytes as f64 / started.elapsed().as_secs_f64()
}

/// Independent chains of dependent multiply-adds, enough to hide the latency of one.
const CHAINS: usize = 12;
/// Elements of one chain: one AVX register.
const LANES: usize = 8;
/// Of all chains in a try: some milliseconds, beside which it does not count that threads do not end together.
const ROUNDS: usize = 4_000_000;

fn try_peak(threads: usize) -> f64 {
    let all_there = Barrier::new(threads);
    let tries: Vec<(Instant, usize, Instant)> = std::thread::scope(|scope| {
        let one = || {
            all_there.wait();
            let started = Instant::now();
            let operations = multiply_add(std::hint::black_box(0.999_9));
            (started, operations, Instant::now())
        };
        let tries: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let tries = tries.into_iter();
        tries
            .map(|thread| thread.join().expect("arithmetic does not panic"))
            .collect()
    });
    let started = tries.iter().map(|(started, ..)| *started).min();
    let ended = tries.iter().map(|(.., ended)| *ended).max();
    let operations: usize = tries.iter().map(|(_, operations, _)| operations).sum();
    let seconds = ended.zip(started).map(|(ended, started)| ended - started);
    operations as f64 / seconds.expect("at least one thread").as_secs_f64()
}

/// Multiplies and adds with the widest registers that the processor has; how many operations that were.
fn multiply_add(factor: f32) -> usize {
    let operations = 2 * CHAINS * LANES * ROUNDS;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has just said that it has it.
        std::hint::black_box(unsafe { chains_avx512(factor) });
        return 2 * operations;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has just said that it has both.
        std::hint::black_box(unsafe { chains_fma(factor) });
        return operations;
    }
    std::hint::black_box(chains(factor, |a, b, c| a * b + c));
    operations
}

/// Chains of twice the elements. With intrinsics, because the compiler makes no vectors of 16 elements of the plain loop.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(factor: f32) -> f32 {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (factor, half) = (_mm512_set1_ps(factor), _mm512_set1_ps(0.5));
    let mut values = [factor; CHAINS];
    for _ in 0..ROUNDS {
        for chain in &mut values {
            *chain = _mm512_fmadd_ps(*chain, factor, half);
        }
    }
    _mm512_reduce_add_ps(
        values
            .into_iter()
            .fold(factor, |sum, value| _mm512_add_ps(sum, value)),
    )
}

/// The plain loop, compiled for AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_fma(factor: f32) -> f32 {
    chains(factor, f32::mul_add)
}

#[inline(always)]
fn chains(factor: f32, fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut values = [[1.0f32; LANES]; CHAINS];
    for _ in 0..ROUNDS {
        for chain in &mut values {
            for value in chain.iter_mut() {
                *value = fma(*value, factor, 0.5);
            }
        }
    }
    values.iter().flatten().sum()
}

/// Seconds that all threads of this process have computed, in user and system mode.
pub(super) fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec, which the call fills.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "every Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Peak resident memory of this process in bytes, as the kernel counts it; `None` where it does not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
