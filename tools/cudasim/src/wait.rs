//! Waiting: a thread of the host runs operations until what it waits for has happened, or until nobody can make it happen.
//!
//! Several threads may drive the machine. One that finds nothing to run leaves it to the others. When all threads that
//! have ever called wait, or when nothing at all has changed for [`PATIENCE`] (a thread may be busy elsewhere, or never
//! come back), what is waited for will not happen: that is reported, and the wait ends with an error. Where other processes
//! can make it happen, it is looked often whether they have, and what happens there is a change, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Condvar;

use crate::clock::Clock;
use crate::rules::Rule;
use crate::sim::{Action, Handle, Locked, Sim};

/// How long nothing may happen while somebody waits; CUDASIM_PATIENCE_MS overrides it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked whether other processes have done something: at first, and where they let wait long.
const LOOK: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(1));

/// Something has changed that others may be waiting for.
static CHANGED: Condvar = Condvar::new();

/// Threads of the host that have called and have not ended.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread for as long as it lives.
struct Thread;

impl Thread {
    fn begin() -> Self {
        THREADS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Those who waited for it must look again.
        let mut sim = Sim::lock();
        THREADS.fetch_sub(1, Ordering::SeqCst);
        sim.changed();
    }
}

thread_local! {
    static THREAD: Thread = Thread::begin();
}

/// Makes the calling thread known.
pub(crate) fn enter() {
    THREAD.with(|_| ());
}

fn patience() -> Duration {
    let set = std::env::var("CUDASIM_PATIENCE_MS").ok();
    set.and_then(|value| value.parse().ok())
        .map_or(PATIENCE, Duration::from_millis)
}

/// Since when nothing has happened, here and in the processes that this one meets.
struct Quiet {
    since: Instant,
    seen: (u64, u64),
}

impl Quiet {
    fn begin(sim: &Sim) -> Self {
        Self {
            since: Instant::now(),
            seen: (sim.changes, sim.beats()),
        }
    }

    fn lasts(&mut self, sim: &Sim) -> Duration {
        let seen = (sim.changes, sim.beats());
        if seen != self.seen {
            *self = Self::begin(sim);
        }
        self.since.elapsed()
    }
}

impl Sim {
    /// To be called whenever something may let another thread go on.
    pub(crate) fn changed(&mut self) {
        self.changes += 1;
        self.waiting = 0;
        self.beat();
        CHANGED.notify_all();
    }

    /// Executes what is left in a stream's queue, without the host knowing.
    pub(crate) fn drain(sim: &mut Locked, stream: Handle) {
        let empty = |sim: &Self| sim.streams.get(&stream).is_none_or(|s| s.queue.is_empty());
        Self::wait(sim, "cuStreamDestroy", empty);
    }

    /// Waits until everything that was enqueued on a stream is done. The host then knows it.
    pub(crate) fn synchronize(sim: &mut Locked, stream: Handle) -> bool {
        sim.retire_host_uses();
        let (target, clock) = (sim.streams[&stream].enqueued, sim.streams[&stream].clock.clone());
        let done = Self::wait(sim, "cuStreamSynchronize", |sim| {
            sim.streams.get(&stream).is_none_or(|s| s.executed >= target)
        });
        sim.host.join(&clock);
        done
    }

    /// Waits for a recorded event.
    pub(crate) fn wait_for(sim: &mut Locked, done: &Arc<AtomicBool>, clock: &Clock) -> bool {
        sim.retire_host_uses();
        let reached = Self::wait(sim, "cuEventSynchronize", |_| done.load(Ordering::Relaxed));
        sim.host.join(clock);
        reached
    }

    /// Runs operations until `done`; says whether that could be reached.
    pub(crate) fn wait(sim: &mut Locked, what: &str, done: impl Fn(&Self) -> bool) -> bool {
        let patience = patience();
        let (mut quiet, begun) = (Quiet::begin(sim), Instant::now());
        loop {
            if done(sim) {
                return true;
            }
            if sim.step() {
                continue;
            }
            let before = sim.changes;
            sim.waiting += 1;
            let hopeless = if sim.expects_others() {
                CHANGED.wait_for(sim, (begun.elapsed() / 8).clamp(LOOK.0, LOOK.1));
                quiet.lasts(sim) >= patience
            } else {
                let all_wait = sim.waiting >= THREADS.load(Ordering::SeqCst);
                all_wait || CHANGED.wait_for(sim, patience).timed_out() && sim.changes == before
            };
            if sim.changes == before {
                sim.waiting -= 1;
            }
            if hopeless {
                let (rule, why) = sim.why_stuck();
                sim.report(rule, format!("{what} waits for ever: {why}"));
                // The others, who wait for this thread, must look again.
                sim.changed();
                return false;
            }
        }
    }

    /// What the streams that cannot go on wait for.
    fn why_stuck(&self) -> (Rule, String) {
        if let Some(absent) = self.absent() {
            return (Rule::CollectiveMissing, absent);
        }
        let mut waiting = Vec::new();
        for stream in self.streams.values() {
            let Some(operation) = stream.queue.front() else {
                continue;
            };
            if let Action::Part(group) = &operation.action
                && let Some(missing) = self.missing(group)
            {
                return (Rule::CollectiveMissing, missing);
            }
            waiting.push(format!("lane {} at {}", stream.lane, operation.name));
        }
        (Rule::Deadlock, waiting.join(", "))
    }
}
