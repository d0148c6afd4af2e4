//! Who is alive, and how far.

use std::time::Duration;

use super::{Coordinator, Guest, Phase};
use crate::error::Loss;
use crate::parallel::control::message::{Message, Progress};

impl Coordinator {
    pub(super) fn progress(&mut self, now: Duration, rank: usize, progress: Progress) {
        if let Some(seat) = self.seats[rank].as_mut()
            && seat.progress != progress
        {
            seat.progress = progress;
            seat.progressed = now;
        }
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.check_strangers(now);
        self.check_absent(now);
        if self.phase == Phase::Running {
            self.check_silence(now);
        }
        if self.phase == Phase::Running {
            self.check_stall(now);
        }
        self.beat(now);
    }

    /// Closes connections that do not say who they are.
    fn check_strangers(&mut self, now: Duration) {
        let late = self.guests.iter().filter_map(|(connection, guest)| match guest {
            Guest::Stranger(since) if now > *since + self.settings.hello => Some(*connection),
            Guest::Stranger(_) | Guest::Rank(_) => None,
        });
        for connection in late.collect::<Vec<_>>() {
            self.stranger(connection, "it did not say who it is in time".into());
        }
    }

    /// Names the rank that has been silent for longest, where that is too long.
    fn check_silence(&mut self, now: Duration) {
        let seats = self.seats.iter().enumerate();
        let present = seats.filter_map(|(rank, seat)| {
            let seat = seat.as_ref()?;
            seat.left.is_none().then_some((seat.heard, rank))
        });
        if let Some((heard, rank)) = present.min()
            && now > heard + self.settings.silence
        {
            let seconds = (now - heard).as_secs_f64();
            self.lose(rank, Loss::Silent { seconds });
        }
    }

    /// Names the rank that is furthest behind, where nobody gets on.
    fn check_stall(&mut self, now: Duration) {
        let Some(stall) = self.settings.stall else {
            return;
        };
        let present = || self.seats.iter().flatten().filter(|seat| seat.left.is_none());
        let Some(last) = present().map(|seat| seat.progressed).max() else {
            return;
        };
        let behind = present().min_by_key(|seat| (seat.progress.step, seat.progress.collectives));
        if let Some(rank) = behind.map(|seat| seat.hello.rank)
            && now > last + stall
        {
            let seconds = (now - last).as_secs_f64();
            self.lose(rank, Loss::Stalled { seconds });
        }
    }

    /// Says that rank 0 is alive, and how far.
    fn beat(&mut self, now: Duration) {
        if !self.is_over() && now >= self.beaten + self.settings.beat {
            self.beaten = now;
            let seat = self.seats.first().and_then(Option::as_ref);
            let progress = seat.map(|seat| seat.progress.clone()).unwrap_or_default();
            self.tell(&Message::Beat(progress));
        }
    }
}
