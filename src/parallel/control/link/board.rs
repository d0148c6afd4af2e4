//! What the driver's thread tells the process's threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, LostPeer, Result};
use crate::parallel::control::member::Report;
use crate::parallel::control::message::{Bytes, Failure, Halt, Membership, Progress};

/// Everything that was reported and not taken.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) membership: Option<Membership>,
    pub(super) gathered: VecDeque<Vec<Bytes>>,
    pub(super) through: Option<u64>,
    pub(super) halt: Option<Halt>,
    pub(super) committed: Option<u64>,
    pub(super) left: Option<u8>,
    failure: Option<Failure>,
    progress: Progress,
    wished: bool,
    ended: bool,
}

/// A state and those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment: a thread that panicked has left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what `ready` finds; ends with the failure, if the job fails before.
    pub(super) fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                return Ok(found);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone().error());
            }
            if state.ended {
                return Err(Error::invalid(
                    "the control link",
                    "a thread that serves it",
                    "one that has ended",
                ));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What `read` finds now.
    pub(super) fn look<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    pub(super) fn lost(&self) -> Option<LostPeer> {
        self.look(State::lost)
    }

    pub(super) fn await_lost(&self) -> Option<LostPeer> {
        let over = |state: &mut State| state.failure.is_none() && state.left.is_none() && !state.ended;
        let state = self.changed.wait_while(self.lock(), over);
        state.unwrap_or_else(PoisonError::into_inner).lost()
    }

    pub(super) fn progress(&self, step: u64, collective: &'static str) {
        let mut state = self.lock();
        state.progress.step = step;
        state.note_collective(collective);
    }

    pub(super) fn begin_collective(&self, what: &'static str) {
        self.lock().note_collective(what);
    }

    pub(super) fn first_wish(&self) -> bool {
        !std::mem::replace(&mut self.lock().wished, true)
    }

    /// For the driver: how far the process is.
    pub(super) fn read_progress(&self) -> Progress {
        self.lock().progress.clone()
    }

    /// For the driver: a report of the member's.
    pub(super) fn apply(&self, report: Report) {
        let mut state = self.lock();
        match report {
            Report::Joined(membership) => state.membership = Some(membership),
            Report::Gathered(parts) => state.gathered.push_back(parts),
            Report::Through(step) => state.through = state.through.max(Some(step)),
            Report::Halt(halt) => state.halt = Some(halt),
            Report::Committed(step) => state.committed = state.committed.max(Some(step)),
            Report::Failed(failure) => state.failure = Some(failure),
            Report::Left(exit) => state.left = Some(exit),
        }
        self.changed.notify_all();
    }

    /// For the driver: nothing will be reported any more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

impl State {
    fn lost(&self) -> Option<LostPeer> {
        match &self.failure {
            Some(Failure::Lost(lost)) => Some(lost.clone()),
            Some(Failure::Absent(_) | Failure::Refused(_)) | None => None,
        }
    }

    fn note_collective(&mut self, what: &'static str) {
        self.progress.collectives += 1;
        if self.progress.collective != what {
            self.progress.collective.clear();
            self.progress.collective.push_str(what);
        }
    }
}
