//! The ring: who may touch which slot when, and who waits for whom.
//!
//! Slot number k lies in place `k % places`. Lock order: the state first, then a slot; a slot's lock is never held
//! while the state's is waited for.

use super::slot::{Row, Slot};
use super::source::Positions;
use super::stats::Counters;
use crate::error::{Error, Result};
use std::any::Any;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Ring<B> {
    state: Mutex<State>,
    /// Signalled when a place becomes free or the ring closes.
    free: Condvar,
    /// Signalled when a slot is filled, a worker fails or a worker leaves.
    ready: Condvar,
    /// `None` while the consumer has it.
    places: Vec<Mutex<Option<Slot<B>>>>,
    positions: Positions,
    pub(super) counters: Counters,
}

#[derive(Debug)]
struct State {
    phases: Vec<Phase>,
    /// Number of the slot whose rows are being claimed.
    claiming: u64,
    workers: usize,
    closed: bool,
    panic: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Filling {
        claimed: usize,
        finished: usize,
        rows: usize,
    },
    Filled,
    Lent,
}

/// One row that a worker has promised to fill.
#[derive(Debug)]
pub(super) struct Claim {
    place: usize,
    row: usize,
    /// The absolute stream position.
    pub(super) position: u64,
}

/// Counts a worker for as long as it lives, panics included.
pub(super) struct Present<'a, B>(&'a Ring<B>);

impl<B> Drop for Present<'_, B> {
    fn drop(&mut self) {
        self.0.state().workers -= 1;
        self.0.ready.notify_all();
    }
}

/// A lock that a panicking thread held is as good as any: no critical section here can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Ring<B> {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn place(&self, number: u64) -> usize {
        (number % self.places.len() as u64) as usize
    }

    /// Says that a worker is at work; `workers` of them were announced to `new`.
    pub(super) fn worker(&self) -> Present<'_, B> {
        Present(self)
    }

    /// Tells the workers to stop after the rows that they are filling.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.free.notify_all();
    }

    /// Returns when the last worker has left.
    pub(super) fn wait_for_workers(&self) {
        let mut state = self.state();
        while state.workers > 0 {
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends everything because a worker panicked.
    pub(super) fn fail(&self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let mut state = self.state();
        state.closed = true;
        state
            .panic
            .get_or_insert(text.unwrap_or_else(|| "a panic without a message".to_string()));
        self.free.notify_all();
        self.ready.notify_all();
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ring<B> {
    pub(super) fn new(slots: Vec<Slot<B>>, positions: Positions, workers: usize) -> Self {
        Self {
            state: Mutex::new(State {
                phases: vec![Phase::Free; slots.len()],
                claiming: 0,
                workers,
                closed: false,
                panic: None,
            }),
            free: Condvar::new(),
            ready: Condvar::new(),
            places: slots.into_iter().map(|slot| Mutex::new(Some(slot))).collect(),
            positions,
            counters: Counters::default(),
        }
    }

    /// The lowest row that nobody has claimed, waiting for a free slot where need be; `None` when there is nothing
    /// left to do.
    pub(super) fn claim(&self) -> Option<Claim> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            let number = state.claiming;
            let (first, rows) = self.positions.slot(number)?;
            let place = self.place(number);
            match &mut state.phases[place] {
                phase @ Phase::Free => {
                    *phase = Phase::Filling {
                        claimed: 0,
                        finished: 0,
                        rows,
                    };
                    if let Some(slot) = lock(&self.places[place]).as_mut() {
                        slot.prepare(first, rows);
                    }
                }
                Phase::Filling { claimed, rows, .. } if *claimed < *rows => {
                    let row = *claimed;
                    *claimed += 1;
                    if *claimed == *rows {
                        state.claiming += 1;
                    }
                    let position = first + row as u64;
                    return Some(Claim { place, row, position });
                }
                Phase::Filling { .. } | Phase::Filled | Phase::Lent => {
                    let start = Instant::now();
                    state = self.free.wait(state).unwrap_or_else(PoisonError::into_inner);
                    self.counters.workers_waited(start.elapsed());
                }
            }
        }
    }

    /// Stores a claimed row.
    pub(super) fn finish(&self, claim: Claim, row: Row, pixels: &[u8]) {
        if let Some(slot) = lock(&self.places[claim.place]).as_mut() {
            slot.store(claim.row, row, pixels);
        }
        let mut state = self.state();
        let phase = &mut state.phases[claim.place];
        if let Phase::Filling { finished, rows, .. } = phase {
            *finished += 1;
            if *finished == *rows {
                *phase = Phase::Filled;
                if let Some(slot) = lock(&self.places[claim.place]).as_mut() {
                    slot.complete();
                }
                self.ready.notify_all();
            }
        }
    }

    /// Lends slot `number` to the consumer, waiting until it is filled; `None` after the end of the stream.
    pub(super) fn take(&self, number: u64) -> Result<Option<Slot<B>>> {
        let place = self.place(number);
        let mut state = self.state();
        loop {
            if let Some(panic) = &state.panic {
                return Err(Error::invalid_hint(
                    "the loader",
                    "threads that run",
                    format!("a panic: {panic}"),
                    "this is a bug: please report it with the file that was being read",
                ));
            }
            // Before the look at the slot: what a failed loader still holds is not served.
            if state.closed {
                return Err(Error::invalid(
                    "the loader",
                    "no use after an error",
                    "another call",
                ));
            }
            if self.positions.slot(number).is_none() {
                return Ok(None);
            }
            match state.phases[place] {
                Phase::Filled => break,
                // Cannot happen; if it does, it must not become a wait for ever.
                Phase::Free | Phase::Filling { .. } if state.workers == 0 => {
                    return Err(Error::invalid(
                        "the loader",
                        "a thread at work on the next slot",
                        "none that is left",
                    ));
                }
                Phase::Lent => {
                    return Err(Error::invalid_hint(
                        "the loader",
                        format!("fewer than {} slots in use at a time", self.places.len() + 1),
                        "all of them lent",
                        "give slots back, or make a ring of more",
                    ));
                }
                Phase::Free | Phase::Filling { .. } => {
                    let start = Instant::now();
                    state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                    self.counters.consumer_waited(start.elapsed());
                }
            }
        }
        state.phases[place] = Phase::Lent;
        Ok(lock(&self.places[place]).take())
    }

    /// Takes a lent slot back.
    pub(super) fn give_back(&self, number: u64, slot: Slot<B>) {
        let place = self.place(number);
        let mut state = self.state();
        *lock(&self.places[place]) = Some(slot);
        state.phases[place] = Phase::Free;
        self.free.notify_all();
    }
}
