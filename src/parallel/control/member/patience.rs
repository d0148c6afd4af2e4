//! What a member does as time passes.

use std::time::Duration;

use super::{Action, Member, Phase, Report};
use crate::error::{AbsentPeers, Loss};
use crate::parallel::control::GRACE;
use crate::parallel::control::message::{Failure, Message};

/// For an answer to a hello; then it is somebody else's port.
const GREETING: Duration = Duration::from_secs(2);

impl Member {
    pub(super) fn tick(&mut self, now: Duration) {
        let silence = self.settings.silence;
        match self.phase {
            Phase::Seeking(at) if now >= at => {
                self.phase = Phase::Connecting;
                self.actions.push_back(Action::Connect(self.port));
            }
            Phase::Greeting(since) if now > since + GREETING => {
                self.actions.push_back(Action::Close);
                self.seek(now, "somebody there does not answer".into());
            }
            Phase::Waiting if now > self.heard + silence => {
                self.actions.push_back(Action::Close);
                self.seek(now, "rank 0 was there and fell silent".into());
            }
            Phase::Running | Phase::Leaving if now > self.heard + silence => {
                let seconds = (now - self.heard).as_secs_f64();
                self.lost_rank_0(Loss::Silent { seconds });
            }
            _ => {}
        }
        self.give_up(now);
        self.beat(now);
    }

    /// Ends the search for rank 0 when its time is over.
    fn give_up(&mut self, now: Duration) {
        let seeking = matches!(
            self.phase,
            Phase::Seeking(_) | Phase::Connecting | Phase::Greeting(_)
        );
        let waited = now.saturating_sub(self.began.unwrap_or(now));
        if seeking && waited > self.settings.join + GRACE {
            let absent = AbsentPeers {
                ranks: vec![0],
                size: self.hello.size,
                seconds: waited.as_secs_f64(),
                meeting: self.meeting.clone(),
                note: std::mem::take(&mut self.note),
            };
            self.over(Report::Failed(Failure::Absent(absent)));
        }
    }

    fn beat(&mut self, now: Duration) {
        let joined = matches!(self.phase, Phase::Waiting | Phase::Running | Phase::Leaving);
        if joined && now >= self.beaten + self.settings.beat {
            self.beaten = now;
            self.send(Message::Beat(self.progress.clone()));
        }
    }
}
