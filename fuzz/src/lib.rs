//! Fuzz targets: one program for each parser, under `tools/fuzz`.

pub mod repair;
pub mod targets;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use libfuzzer_sys;

/// Longer than this is a hang, in processor time.
const HANG: Duration = Duration::from_secs(1);

/// Runs `target` on an input. Says when an input was slower than all before it; one that hangs is a crash.
pub fn run(target: targets::Target, data: &[u8]) {
    static SLOWEST: AtomicU64 = AtomicU64::new(1_000_000);
    let started = Instant::now();
    target(data);
    let wall = started.elapsed();
    if wall.as_nanos() as u64 <= SLOWEST.load(Ordering::Relaxed) {
        return;
    }
    // Others may have used the processor meanwhile: again, by this process's own clock.
    let started = processor_time();
    target(data);
    let spent = processor_time() - started;
    if spent.as_nanos() as u64 > SLOWEST.fetch_max(spent.as_nanos() as u64, Ordering::Relaxed) {
        eprintln!(
            "slowest input: {:.3} ms of {} bytes",
            1e3 * spent.as_secs_f64(),
            data.len()
        );
    }
    assert!(spent < HANG, "a hang: {spent:?}");
}

/// Seconds that this process has computed, to the clock tick.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number of nanoseconds"))
}

/// The program of one target: libFuzzer's entry, and its way to change an input, after which lengths and checksums are
/// put right most of the time, so that what lies behind them is reached.
#[macro_export]
macro_rules! fuzz {
    ($target:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run($crate::targets::$target, data));

        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let size = $crate::libfuzzer_sys::fuzzer_mutate(data, size, max_size);
            if seed % 8 > 0 {
                $crate::repair::of(stringify!($target))(&mut data[..size]);
            }
            size
        });
    };
}
