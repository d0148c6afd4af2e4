//! The threads: tasks of one parallel region, dealt to whoever is free.
//!
//! A training step is a few hundred regions of 10 microseconds to 10 milliseconds. The caller works too, and
//! never waits for a thread that has not started; idle threads look for work for a short while before they
//! sleep. Which thread runs a task is chance: tasks must write to places of their own, and nothing they
//! compute may depend on it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long an idle thread looks for work before it sleeps: longer than the gaps between the regions of a
/// step.
const PATIENCE: Duration = Duration::from_micros(50);

/// Stack of a worker in bytes; tasks keep tiles of a few kilobytes on it.
pub(super) const STACK_BYTES: usize = 256 << 10;

/// A fixed number of threads, the caller among them.
pub(super) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by whoever has the workers; others work alone meanwhile.
    turn: Mutex<()>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Copy of `State::epoch` for looking without the lock.
    epoch: AtomicU64,
    /// Workers inside the current region. Grows only under the lock and while there is a job.
    active: AtomicUsize,
    panicked: AtomicBool,
}

struct State {
    job: Option<Job>,
    /// Regions begun so far.
    epoch: u64,
    sleeping: usize,
    quit: bool,
}

/// What a region runs: `call(task, worker)` for every task below `tasks`.
#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize, usize) + Sync),
    next: *const AtomicUsize,
    tasks: usize,
}

// SAFETY: the pointees are Sync and outlive the region: `Team::run` withdraws the job and waits for the last
// worker before it returns (see `Withdraw`).
unsafe impl Send for Job {}

impl Job {
    /// # Safety
    /// `call` and `next` must be alive.
    unsafe fn work(self, worker: usize) {
        // SAFETY: alive, says the caller.
        let (call, next) = unsafe { (&*self.call, &*self.next) };
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            call(task, worker);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside a task is reported by `run`; the state itself is always consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of worker number `worker`.
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let idle_since = Instant::now();
            while self.epoch.load(Ordering::Acquire) == seen && idle_since.elapsed() < PATIENCE {
                std::thread::yield_now(); // to the loader's threads, if they want the core
            }
            let mut state = self.lock();
            while state.epoch == seen && !state.quit {
                state.sleeping += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.sleeping -= 1;
            }
            if state.quit {
                return;
            }
            seen = state.epoch;
            let Some(job) = state.job else { continue }; // the region ended without this worker
            self.active.fetch_add(1, Ordering::Relaxed);
            drop(state);
            let _leave = Leave(self);
            // SAFETY: `active` was raised while the job was on offer, so `run` waits for `Leave`.
            unsafe { job.work(worker) };
        }
    }
}

/// Counts a worker out of the region, also when a task panics.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.active.fetch_sub(1, Ordering::Release);
    }
}

/// Ends a region: nobody enters any more, and the last worker has left. Also when a task of the caller
/// panics.
struct Withdraw<'a>(&'a Shared);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.0.lock().job = None;
        while self.0.active.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
    }
}

impl Team {
    /// `threads` threads, of which one is the caller of [`Team::run`].
    pub(super) fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                job: None,
                epoch: 0,
                sleeping: 0,
                quit: false,
            }),
            work: Condvar::new(),
            epoch: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let mut team = Self {
            shared,
            workers: Vec::new(),
            turn: Mutex::new(()),
        };
        for worker in 1..threads {
            let shared = Arc::clone(&team.shared);
            let thread = std::thread::Builder::new()
                .name(format!("cpu-{worker}"))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.serve(worker));
            team.workers.push(thread.map_err(|source| Error::Device {
                device: "cpu".into(),
                reason: format!("thread {worker} of {threads} did not start: {source}; try fewer --threads"),
            })?);
        }
        Ok(team)
    }

    /// Threads, the caller among them: worker numbers are below this.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `call(task, worker)` once for every task below `tasks` and returns when all are done. Two tasks
    /// that run at the same time have different worker numbers.
    pub(super) fn run(&self, tasks: usize, call: impl Fn(usize, usize) + Sync) {
        let alone = tasks < 2 || self.workers.is_empty();
        let Some(_turn) = (if alone { None } else { self.turn.try_lock().ok() }) else {
            return (0..tasks).for_each(|task| call(task, 0));
        };
        let next = AtomicUsize::new(0);
        let call: &(dyn Fn(usize, usize) + Sync) = &call;
        // SAFETY: only the lifetime changes, and `Withdraw` ends every use of the pointer before `call` goes.
        let call = unsafe {
            std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static (dyn Fn(usize, usize) + Sync)>(
                call,
            )
        };
        let job = Job {
            call,
            next: &next,
            tasks,
        };
        let sleepers = {
            let mut state = self.shared.lock();
            state.job = Some(job);
            state.epoch += 1;
            self.shared.epoch.store(state.epoch, Ordering::Release);
            state.sleeping
        };
        let withdraw = Withdraw(&self.shared);
        if sleepers > 0 {
            self.shared.work.notify_all();
        }
        // SAFETY: `call` and `next` live until the end of this function.
        unsafe { job.work(0) };
        drop(withdraw);
        assert!(
            !self.shared.panicked.load(Ordering::Relaxed),
            "a thread of the CPU back end panicked"
        );
    }

    /// Cuts `slice` into chunks of `chunk` elements (the last may be shorter) and calls `call(index, chunk)`
    /// for each.
    pub(super) fn chunks<T: Send>(
        &self,
        slice: &mut [T],
        chunk: usize,
        call: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let parts = Parts::new(slice);
        self.run(parts.len.div_ceil(chunk), |index, _| {
            let start = index * chunk;
            // SAFETY: chunks of different indices do not overlap, and every index is run once.
            call(index, unsafe { parts.range(start, chunk.min(parts.len - start)) });
        });
    }

    /// [`Team::chunks`] over two slices in step: chunk `index` of both.
    pub(super) fn chunks2<T: Send, U: Send>(
        &self,
        (first, first_chunk): (&mut [T], usize),
        (second, second_chunk): (&mut [U], usize),
        call: impl Fn(usize, &mut [T], &mut [U]) + Sync,
    ) {
        let second = Parts::new(second);
        self.chunks(first, first_chunk, |index, first| {
            let start = index * second_chunk;
            // SAFETY: as in `chunks`.
            call(index, first, unsafe {
                second.range(start, second_chunk.min(second.len - start))
            });
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.quit = true;
            state.epoch += 1;
            self.shared.epoch.store(state.epoch, Ordering::Release);
        }
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked was reported by `run`.
            let _ = worker.join();
        }
    }
}

/// A slice that the tasks of a region write in disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts go to different threads; `range` demands that they are disjoint.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where an element lies, or would lie.
    pub(super) fn address(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
    }

    /// Elements `start..start + len`, within bounds or a panic.
    ///
    /// # Safety
    /// No two references to the same element may be alive at the same time.
    #[inline(always)]
    pub(super) unsafe fn range(&self, start: usize, len: usize) -> &'a mut [T] {
        if start > self.len || len > self.len - start {
            outside(start, len, self.len);
        }
        // SAFETY: within the slice that `new` borrowed exclusively for 'a; disjoint, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// Apart from the check, so that what it prints is not made ready at every check.
#[cold]
#[inline(never)]
fn outside(start: usize, len: usize, of: usize) -> ! {
    panic!("elements {start}..{start}+{len} of {of}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in 1..=4 {
            let team = Team::new(threads).unwrap();
            for tasks in [0, 1, 2, 3, 100] {
                let mut counts = vec![0u32; tasks];
                for round in 1..=50 {
                    team.chunks(&mut counts, 1, |_, count| count[0] += 1);
                    assert!(counts.iter().all(|&count| count == round));
                }
            }
        }
    }

    #[test]
    fn nested_and_concurrent_regions_finish() {
        let team = Team::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        team.run(4, |task, _| {
                            team.run(2, |inner, _| {
                                sum.fetch_add(task + inner, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 100 * (2 * 6 + 4));
    }

    #[test]
    fn a_panicking_task_reaches_the_caller() {
        let team = Team::new(2).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(100, |task, _| assert!(task != 50, "planted"));
        }));
        assert!(caught.is_err());
    }
}
