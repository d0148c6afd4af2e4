//! Time as a process lives it.

use std::time::Duration;

/// A clock that counts no more than `most` between two looks at it, and never runs backwards: who was stopped for a
/// minute, or whose clock was set, has not listened for a minute and cannot say that others were silent.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    most: Duration,
    looked: Option<Duration>,
    lived: Duration,
}

impl Attention {
    pub(super) fn new(most: Duration) -> Self {
        Self {
            most,
            looked: None,
            lived: Duration::ZERO,
        }
    }

    /// Looks at the clock, which shows `now`; returns the time lived.
    pub(super) fn look(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.looked.unwrap_or(now));
        self.looked = Some(now);
        self.lived += passed.min(self.most);
        self.lived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_do_not_count() {
        let ms = Duration::from_millis;
        let mut clock = Attention::new(ms(1000));
        assert_eq!(clock.look(ms(5_000)), ms(0));
        assert_eq!(clock.look(ms(5_100)), ms(100));
        assert_eq!(clock.look(ms(95_100)), ms(1100));
        assert_eq!(clock.look(ms(200)), ms(1100));
        assert_eq!(clock.look(ms(300)), ms(1200));
    }
}
