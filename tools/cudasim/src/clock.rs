//! Vector clocks: what happened before what.
//!
//! Every stream is a lane with a time of its own, and so is every node of a graph that is being replayed. An operation
//! happened before another if the other's clock has reached its time on its lane. Two operations of which neither
//! happened before the other may run in any order, whatever order they ran in.

use std::collections::HashMap;

/// The latest time of every lane that something knows of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock(HashMap<u32, u32>);

impl Clock {
    /// Learns everything that another clock knows.
    pub(crate) fn join(&mut self, other: &Self) {
        for (lane, time) in &other.0 {
            let known = self.0.entry(*lane).or_default();
            *known = (*known).max(*time);
        }
    }

    /// The next moment of a lane.
    pub(crate) fn tick(&mut self, lane: u32) -> u32 {
        let time = self.0.entry(lane).or_default();
        *time += 1;
        *time
    }

    /// Whether what happened on `lane` at `time` happened before.
    #[inline]
    pub(crate) fn has_seen(&self, lane: u32, time: u32) -> bool {
        self.0.get(&lane).is_some_and(|known| *known >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_order_lanes() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        let written = a.tick(1);
        let elsewhere = b.tick(2);
        assert!(!b.has_seen(1, written) && !a.has_seen(2, elsewhere));
        b.join(&a);
        assert!(b.has_seen(1, written) && !a.has_seen(2, elsewhere));
        let later = a.tick(1);
        assert!(!b.has_seen(1, later));
    }
}
