//! Vector clocks: what happened before what.
//!
//! Every stream is a lane with a time of its own. An operation happened before another if the other's clock has reached
//! its time on its lane. Two operations of which neither happened before the other may run in any order, whatever order
//! they ran in. The replay of a graph is one moment of its stream; what its nodes come after, the graph says.

/// The latest time of every lane that something knows of, by the number of the lane; 0 where it knows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock(Vec<u32>);

impl Clock {
    /// Learns everything that another clock knows.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (known, time) in self.0.iter_mut().zip(&other.0) {
            *known = (*known).max(*time);
        }
    }

    /// The next moment of a lane.
    pub(crate) fn tick(&mut self, lane: u32) -> u32 {
        let lane = lane as usize;
        if self.0.len() <= lane {
            self.0.resize(lane + 1, 0);
        }
        let time = &mut self.0[lane];
        *time += 1;
        *time
    }

    /// Whether what happened on `lane` at `time` happened before.
    #[inline]
    pub(crate) fn has_seen(&self, lane: u32, time: u32) -> bool {
        self.0.get(lane as usize).is_some_and(|known| *known >= time)
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
