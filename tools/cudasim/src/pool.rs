//! Memory pools of the stream-ordered allocator. What is freed goes back to the device at once, so a pool reserves what
//! is in use.

use crate::sim::{Handle, Sim};

/// A pool: its device, what it holds, and the attribute that programs set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    pub(crate) device: usize,
    pub(crate) release_threshold: u64,
    pub(crate) used: u64,
    pub(crate) most_used: u64,
}

/// The handle of a device's own pool.
pub(crate) fn default_of(device: usize) -> Handle {
    0x200 + device
}

/// A device's own pool, which is there from the beginning.
pub(crate) fn of_device(device: usize) -> (Handle, Pool) {
    let pool = Pool {
        device,
        ..Pool::default()
    };
    (default_of(device), pool)
}

impl Sim {
    /// Counts an allocation from a pool, which exists.
    pub(crate) fn count_pool_use(&mut self, pool: Handle, bytes: u64) {
        let pool = self.pools.get_mut(&pool).expect("checked by the caller");
        pool.used += bytes;
        pool.most_used = pool.most_used.max(pool.used);
    }

    /// Counts that an allocation ends, if it came from a pool.
    pub(crate) fn count_pool_free(&mut self, address: u64) {
        let found = self.memory.near(address).map(|a| (a.pool, a.bytes));
        if let Some((Some(pool), bytes)) = found
            && let Some(pool) = self.pools.get_mut(&pool)
        {
            pool.used -= bytes;
        }
    }
}
