//! A seeded network of simulated processes for the machines: delay, reordering between connections, lost connections,
//! crashes, freezes, clocks that jump, strangers, and processes that do not fit together.
//!
//! A schedule is a function of its seed. `VERYDEEP_TEST_SEED` repeats one.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::link::say;
use schedule::Schedule;
use world::World;

mod app;
mod schedule;
mod verdict;
mod world;

/// Runs the schedules `first..first + count`, on two threads.
fn run(first: u64, count: u64) {
    let started = Instant::now();
    let half = |from: u64| {
        let mut endings = [0_u64; 3];
        for seed in (first + from..first + count).step_by(2) {
            let schedule = Schedule::draw(seed);
            let world = World::new(&schedule).run();
            match verdict::of(&schedule, &world) {
                Ok(ending) => endings[ending as usize] += 1,
                Err(broken) => panic!(
                    "schedule {seed} breaks a rule: {broken}\nrepeat it with VERYDEEP_TEST_SEED={seed}\n{schedule:#?}\n{}",
                    world.story()
                ),
            }
        }
        endings
    };
    let endings = std::thread::scope(|scope| {
        let threads = [0, 1].map(|from| scope.spawn(move || half(from)));
        threads.map(|thread| match thread.join() {
            Ok(endings) => endings,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    let [done, stopped, failed] = [0, 1, 2].map(|i| endings[0][i] + endings[1][i]);
    // Every kind of ending must be among many schedules, else the schedules test nothing.
    assert!(count < 1000 || [done, stopped, failed].iter().all(|n| *n > count / 50));
    let seconds = started.elapsed().as_secs_f64();
    say(&format!(
        "schedules {first} and on: {done} done, {stopped} stopped, {failed} failed; {seconds:.1} s"
    ));
}

/// The seed that is asked for, or a fresh one.
fn seed(count: u64) -> (u64, u64) {
    let asked = std::env::var("VERYDEEP_TEST_SEED").ok();
    match asked.and_then(|seed| seed.parse().ok()) {
        Some(seed) => (seed, 1),
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (now.as_nanos() as u64 >> 1, count)
        }
    }
}

/// VERYDEEP_TEST_SCHEDULES says how many in a nightly run.
#[test]
fn ten_thousand_schedules_keep_the_rules() {
    let said = std::env::var("VERYDEEP_TEST_SCHEDULES").ok();
    let (first, count) = seed(said.map_or(10_000, |count| count.parse().expect("a number of schedules")));
    run(first, count);
}

/// Schedules that broke a rule while the machines and the rules were written, and the first few.
#[test]
fn schedules_that_once_broke_a_rule() {
    for seed in [
        897_779_306_507_700_656,
        897_779_321_746_965_520,
        897_779_353_452_068_820,
        897_779_563_922_796_999,
        897_779_666_605_699_702,
        897_779_705_384_859_460,
        897_779_705_385_161_319,
        897_779_866_710_940_759,
        897_779_866_710_951_098,
    ] {
        run(seed, 1);
    }
    run(1, 200);
}
