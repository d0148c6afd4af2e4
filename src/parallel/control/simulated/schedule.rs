//! What happens to the processes of one simulated job.

use std::time::Duration;

use crate::parallel::control::Settings;
use crate::rng::{Purpose, Stream};

pub(super) const MS: u64 = 1000;

/// A fault, or what looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies; what it has sent may be lost.
    Crash { rank: usize, loses: bool },
    /// Its machine does: connections just go quiet.
    PowerOff { rank: usize },
    /// The process is stopped, and goes on after these microseconds.
    Freeze { rank: usize, micros: Option<u64> },
    /// Its connection to rank 0 is reset.
    Cut { rank: usize },
    /// Nothing goes over its connection to rank 0 any more.
    Hole { rank: usize },
    /// Its clock jumps by these microseconds.
    Jump { rank: usize, micros: i64 },
    /// It gets a signal to stop.
    Signal { rank: usize },
    /// It ends with an error of its own.
    OwnError { rank: usize, exit: u8 },
    /// Somebody else connects to rank 0 and says nothing, or something wrong.
    Stranger { speaks: bool },
    /// A second process claims the rank.
    Twice { rank: usize },
}

impl Fault {
    /// The rank that others may rightly call lost because of this.
    pub(super) fn loses(&self) -> Option<usize> {
        match *self {
            Self::Crash { rank, .. }
            | Self::PowerOff { rank }
            | Self::Cut { rank }
            | Self::Hole { rank }
            | Self::OwnError { rank, .. } => Some(rank),
            Self::Freeze { rank, micros } => micros.is_none_or(|micros| micros > HARMLESS).then_some(rank),
            Self::Jump { .. } | Self::Signal { .. } | Self::Stranger { .. } | Self::Twice { .. } => None,
        }
    }
}

/// A freeze of at most this must not be noticed.
pub(super) const HARMLESS: u64 = 1000 * MS;

/// One simulated job.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) size: usize,
    /// When each process starts; never where it is `None`.
    pub(super) starts: Vec<Option<u64>>,
    /// Which of the meeting's two ports rank 0 has.
    pub(super) port: usize,
    /// Whether somebody who says nothing has the other one.
    pub(super) mute: bool,
    /// A rank of another class.
    pub(super) other_class: Option<usize>,
    /// A rank that claims the device of rank 0.
    pub(super) same_device: Option<usize>,
    pub(super) steps: u64,
    pub(super) checkpoint_every: u64,
    pub(super) ahead: u64,
    /// Rank 0 cannot write this step's checkpoint.
    pub(super) write_fails: Option<u64>,
    /// Longest way of most messages, in microseconds.
    pub(super) delay: u64,
    pub(super) faults: Vec<(u64, Fault)>,
}

impl Schedule {
    pub(super) fn draw(seed: u64) -> Self {
        let mut draw = Stream::new(seed, 0, Purpose::Synthetic, 0);
        let size = 2 + draw.below(4) as usize;
        let one_in = |draw: &mut Stream, n: u64| draw.below(n) == 0;
        let some_rank = |draw: &mut Stream| 1 + draw.below(size as u64 - 1) as usize;
        let starts = (0..size)
            .map(|_| match draw.below(40) {
                0 => None,
                1..=4 => Some(draw.below(4000 * MS)),
                _ => Some(draw.below(300 * MS)),
            })
            .collect();
        let steps = 1 + draw.below(12);
        let mut schedule = Self {
            seed,
            size,
            starts,
            port: draw.below(2) as usize,
            mute: one_in(&mut draw, 2),
            other_class: one_in(&mut draw, 30).then(|| some_rank(&mut draw)),
            same_device: one_in(&mut draw, 30).then(|| some_rank(&mut draw)),
            steps,
            checkpoint_every: 1 + draw.below(4),
            ahead: draw.below(3),
            write_fails: one_in(&mut draw, 20).then(|| draw.below(steps)),
            delay: [MS, 20 * MS, 100 * MS][draw.below(3) as usize],
            faults: Vec::new(),
        };
        for _ in 0..draw.below(4) {
            let fault = schedule.fault(&mut draw);
            schedule.faults.push((draw.below(5000 * MS), fault));
        }
        schedule
    }

    fn fault(&self, draw: &mut Stream) -> Fault {
        let rank = draw.below(self.size as u64) as usize;
        let linked = 1 + draw.below(self.size as u64 - 1) as usize;
        match draw.below(16) {
            0 => Fault::Crash {
                rank,
                loses: draw.below(2) == 0,
            },
            1 => Fault::PowerOff { rank },
            2 => Fault::Freeze {
                rank,
                micros: [None, Some(8000 * MS)][draw.below(2) as usize],
            },
            3 | 4 => Fault::Freeze {
                rank,
                micros: Some(draw.below(HARMLESS)),
            },
            5 => Fault::Cut { rank: linked },
            6 => Fault::Hole { rank: linked },
            7 | 8 => {
                let micros = draw.below(200_000 * MS) as i64 - 100_000_000;
                Fault::Jump { rank, micros }
            }
            9 => Fault::OwnError {
                rank,
                exit: [3, 5, 6, 9][draw.below(4) as usize],
            },
            10 => Fault::Stranger {
                speaks: draw.below(2) == 0,
            },
            11 if draw.below(3) == 0 => Fault::Twice { rank },
            _ => Fault::Signal { rank },
        }
    }

    pub(super) fn settings(&self) -> Settings {
        let ms = Duration::from_millis;
        Settings {
            join: ms(8000),
            silence: ms(3000),
            beat: ms(500),
            hello: ms(1500),
            stall: None,
            ahead: self.ahead,
        }
    }

    /// Whether all must come to their planned end.
    pub(super) fn is_harmless(&self) -> bool {
        let fits = self.other_class.is_none()
            && self.same_device.is_none()
            && self.starts.iter().all(Option::is_some);
        let harmless = |fault: &Fault| fault.loses().is_none() && !matches!(fault, Fault::Twice { .. });
        fits && self.write_fails.is_none() && self.faults.iter().all(|(_, fault)| harmless(fault))
    }
}
