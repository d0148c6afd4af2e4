//! A simulated trainer: what `Control`'s callers do, without threads.

use std::time::Duration;

use super::schedule::{MS, Schedule};
use crate::parallel::control::member::{Call, Report};
use crate::parallel::control::message::{Failure, Halt, Membership};
use crate::rng::Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    AwaitingRelease,
    Computing,
    Gathering,
    /// A checkpoint, at rank 0; the last one where it is a stop.
    Writing,
    AwaitingCommit,
    Leaving,
}

/// What the trainer wants.
#[derive(Debug, Clone)]
pub(super) enum Want {
    Call(Call),
    /// To be resumed after these microseconds.
    Work(u64),
    /// To end its process.
    Exit,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Left(u8),
    Failed(Failure),
    /// With its own error.
    Own(u8),
}

#[derive(Debug)]
pub(super) struct App {
    rank: usize,
    steps: u64,
    checkpoint_every: u64,
    write_fails: Option<u64>,
    phase: Phase,
    step: u64,
    through: Option<u64>,
    gathered: bool,
    committed: Option<u64>,
    asked: bool,
    exited: bool,
    /// Rank 0: the step of the newest checkpoint on disk.
    pub(super) written: Option<u64>,
    pub(super) membership: Option<Membership>,
    pub(super) joined: Option<Duration>,
    pub(super) halt: Option<Halt>,
    /// The last step begun.
    pub(super) begun: Option<u64>,
    /// The exit code of a planned goodbye.
    pub(super) goodbye: Option<u8>,
    pub(super) end: Option<(Duration, End)>,
    /// A rule that the reports themselves break.
    pub(super) broken: Option<String>,
}

impl App {
    pub(super) fn new(schedule: &Schedule, rank: usize) -> Self {
        Self {
            rank,
            steps: schedule.steps,
            checkpoint_every: schedule.checkpoint_every,
            write_fails: schedule.write_fails,
            phase: Phase::Joining,
            step: 0,
            through: None,
            gathered: false,
            committed: None,
            asked: false,
            exited: false,
            written: None,
            membership: None,
            joined: None,
            halt: None,
            begun: None,
            goodbye: None,
            end: None,
            broken: None,
        }
    }

    /// Takes a report; `written` is rank 0's newest checkpoint.
    pub(super) fn report(&mut self, now: Duration, report: Report, written: Option<u64>) {
        if self.end.is_some() {
            return;
        }
        match report {
            Report::Joined(membership) => {
                self.joined = Some(now);
                self.membership = Some(membership);
            }
            Report::Gathered(parts) => {
                let expected = (0..parts.len()).map(|rank| part(rank, self.step));
                let equal = expected.eq(parts.iter().map(|part| part.0.clone()));
                if !equal || self.phase != Phase::Gathering {
                    self.broken = Some(format!(
                        "rank {} got parts {parts:?} at step {}",
                        self.rank, self.step
                    ));
                }
                self.gathered = true;
            }
            Report::Through(step) => self.through = self.through.max(Some(step)),
            Report::Halt(halt) => self.halt = Some(halt),
            Report::Committed(step) => {
                if written < Some(step) {
                    self.broken = Some(format!("checkpoint {step} is reported, and is not written"));
                }
                self.committed = Some(step);
            }
            Report::Failed(failure) => self.end = Some((now, End::Failed(failure))),
            Report::Left(exit) => self.end = Some((now, End::Left(exit))),
        }
    }

    /// Ends with an error of its own.
    pub(super) fn fail(&mut self, now: Duration, exit: u8) -> Vec<Want> {
        if self.end.is_some() {
            return Vec::new();
        }
        self.end = Some((now, End::Own(exit)));
        self.exited = true;
        vec![Want::Call(Call::Leave(exit)), Want::Exit]
    }

    /// Computing or writing is done.
    pub(super) fn resume(&mut self, now: Duration, draw: &mut Stream) -> Vec<Want> {
        match self.phase {
            Phase::Computing => {
                self.phase = Phase::Gathering;
                let bytes = part(self.rank, self.step);
                let what = "losses".to_string();
                vec![Want::Call(Call::Give { what, bytes })]
            }
            Phase::Writing if self.write_fails == Some(self.step) => self.fail(now, 9),
            Phase::Writing => {
                self.written = Some(self.step);
                let mut wants = vec![Want::Call(Call::Commit(self.step))];
                wants.extend(self.after_checkpoint(draw));
                wants
            }
            Phase::Joining
            | Phase::AwaitingRelease
            | Phase::Gathering
            | Phase::AwaitingCommit
            | Phase::Leaving => Vec::new(),
        }
    }

    /// Goes on as far as the reports allow.
    pub(super) fn advance(&mut self, draw: &mut Stream) -> Vec<Want> {
        match (&self.end, self.phase) {
            (Some(_), _) if std::mem::replace(&mut self.exited, true) => Vec::new(),
            (Some((_, End::Failed(_))), _) => vec![Want::Call(Call::Leave(8)), Want::Exit],
            (Some(_), _) => vec![Want::Exit],
            (None, Phase::Joining) if self.membership.is_some() => self.ask(draw),
            (None, Phase::AwaitingRelease) => self.release(draw),
            (None, Phase::Gathering) if self.gathered => {
                self.gathered = false;
                self.step += 1;
                if self.step.is_multiple_of(self.checkpoint_every) || self.step == self.steps {
                    self.checkpoint(draw)
                } else {
                    self.ask(draw)
                }
            }
            (None, Phase::AwaitingCommit) if self.committed >= Some(self.step) => self.after_checkpoint(draw),
            (None, _) => Vec::new(),
        }
    }

    /// May the next step begin?
    fn ask(&mut self, draw: &mut Stream) -> Vec<Want> {
        self.phase = Phase::AwaitingRelease;
        if self.rank == 0 {
            return vec![Want::Call(Call::Begin(self.step))];
        }
        self.release(draw)
    }

    fn release(&mut self, draw: &mut Stream) -> Vec<Want> {
        match &self.halt {
            Some(halt) if halt.step <= self.step => self.checkpoint(draw),
            _ if self.through >= Some(self.step) => {
                self.phase = Phase::Computing;
                self.begun = Some(self.step);
                vec![Want::Work(draw.below(300 * MS))]
            }
            _ => Vec::new(),
        }
    }

    fn checkpoint(&mut self, draw: &mut Stream) -> Vec<Want> {
        let known = self.committed >= Some(self.step) && self.step > 0 || self.written >= Some(self.step);
        if known && self.halt.is_some() {
            return self.after_checkpoint(draw); // the stop comes right after a checkpoint
        }
        if self.rank == 0 {
            self.phase = Phase::Writing;
            return vec![Want::Work(draw.below(500 * MS))];
        }
        self.phase = Phase::AwaitingCommit;
        self.advance(draw)
    }

    fn after_checkpoint(&mut self, draw: &mut Stream) -> Vec<Want> {
        let stopped = self.halt.as_ref().is_some_and(|halt| halt.step <= self.step);
        let exit = match (self.step >= self.steps, stopped) {
            (true, _) => 0,
            (false, true) => 75,
            (false, false) => return self.ask(draw),
        };
        self.phase = Phase::Leaving;
        self.goodbye = Some(exit);
        vec![Want::Call(Call::Leave(exit))]
    }

    /// A signal: the first is passed on.
    pub(super) fn signal(&mut self) -> Vec<Want> {
        let heard = self.membership.is_some() && self.phase != Phase::Leaving && self.end.is_none();
        if !heard || std::mem::replace(&mut self.asked, true) {
            return Vec::new();
        }
        vec![Want::Call(Call::Wish("SIGTERM".into()))]
    }
}

/// What a rank gives at a step.
fn part(rank: usize, step: u64) -> Vec<u8> {
    vec![rank as u8, step as u8]
}
