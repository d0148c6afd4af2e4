//! Where threads wait for one another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A place where a fixed number of members meet again and again. Everybody brings something; who comes last makes of
/// all that was brought what each takes away.
pub(super) struct Meeting<T, U> {
    state: Mutex<State<T, U>>,
    changed: Condvar,
}

struct State<T, U> {
    brought: Vec<Option<T>>,
    /// What a member has not taken yet. It cannot bring anything to the next meeting before.
    ready: Vec<Option<U>>,
    /// Members that will never come again.
    gone: Vec<usize>,
}

/// A member that others wait for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) member: usize,
}

impl<T, U> Meeting<T, U> {
    pub(super) fn new(members: usize) -> Self {
        Self {
            state: Mutex::new(State {
                brought: (0..members).map(|_| None).collect(),
                ready: (0..members).map(|_| None).collect(),
                gone: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Brings `own` and waits for the others; `make` turns what all brought, by member, into what all take away. Fails
    /// where a member that has not come is gone; then what was brought is lost.
    pub(super) fn meet(&self, member: usize, own: T, make: impl FnOnce(Vec<T>) -> Vec<U>) -> Result<U, Gone> {
        let mut state = self.lock();
        state.brought[member] = Some(own);
        if state.brought.iter().all(Option::is_some) {
            let all = state.brought.iter_mut().filter_map(Option::take).collect();
            state.ready = make(all).into_iter().map(Some).collect();
            self.changed.notify_all();
        }
        loop {
            if let Some(made) = state.ready[member].take() {
                return Ok(made);
            }
            if let Some(&member) = state.gone.iter().find(|gone| state.brought[**gone].is_none()) {
                return Err(Gone { member });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The member will not come again.
    pub(super) fn leave(&self, member: usize) {
        self.lock().gone.push(member);
        self.changed.notify_all();
    }

    /// Whoever panicked in `make` leaves, and takes what was brought along.
    fn lock(&self) -> MutexGuard<'_, State<T, U>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    #[test]
    fn everybody_takes_what_the_last_one_made() {
        let meeting = Meeting::new(3);
        let sums = |all: Vec<u64>| {
            let sum: u64 = all.iter().sum();
            all.into_iter().map(|own| (own, sum)).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            for member in 0..3 {
                let meeting = &meeting;
                scope.spawn(move || {
                    for round in 0..1000 {
                        let own = round * 10 + member;
                        let taken = meeting.meet(member as usize, own, sums);
                        assert_eq!(taken, Ok((own, 30 * round + 3)));
                    }
                    meeting.leave(member as usize);
                });
            }
        });
    }

    #[test]
    fn nobody_waits_for_who_is_gone() {
        let meeting = Meeting::<(), ()>::new(3);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..2)
                .map(|member| {
                    scope.spawn({
                        let meeting = &meeting;
                        move || meeting.meet(member, (), |all| all)
                    })
                })
                .collect();
            meeting.leave(2);
            for member in waiting {
                assert_eq!(member.join().unwrap(), Err(Gone { member: 2 }));
            }
        });
    }

    #[test]
    fn a_panic_of_the_last_one_frees_the_others() {
        let meeting = Meeting::<(), ()>::new(2);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| meeting.meet(0, (), |all| all));
            while meeting.lock().brought[0].is_none() {
                thread::yield_now();
            }
            let panicked = catch_unwind(AssertUnwindSafe(|| meeting.meet(1, (), |_| panic!("planted"))));
            assert!(panicked.is_err());
            meeting.leave(1);
            assert_eq!(waiting.join().unwrap(), Err(Gone { member: 1 }));
        });
    }
}
