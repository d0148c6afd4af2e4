//! Pinned memory of the host, and which copies out of and into it may still be under way.

use std::collections::BTreeMap;

use crate::rules::Rule;
use crate::sim::Sim;

/// A use of a range of host memory by an asynchronous copy.
#[derive(Debug, Clone)]
struct Use {
    address: u64,
    bytes: u64,
    /// Whether the copy writes to the host.
    writes: bool,
    lane: u32,
    time: u32,
    name: String,
    /// A checksum of what was there when a copy out of it was enqueued.
    content: u64,
}

/// Pinned allocations and the copies that touch them.
#[derive(Default)]
pub(crate) struct HostMemory {
    /// Address to bytes.
    pinned: BTreeMap<u64, u64>,
    uses: Vec<Use>,
}

impl HostMemory {
    pub(crate) fn is_pinned(&self, address: u64) -> bool {
        self.pinned
            .range(..=address)
            .next_back()
            .is_some_and(|(start, bytes)| address < start + bytes)
    }

    pub(crate) fn pin(&mut self, address: u64, bytes: u64) {
        self.pinned.insert(address, bytes);
    }

    /// Bytes of the allocation at exactly this address, which ends.
    pub(crate) fn unpin(&mut self, address: u64) -> Option<u64> {
        self.pinned.remove(&address)
    }

    pub(crate) fn leaks(&self) -> usize {
        self.pinned.len()
    }
}

/// FNV-1a over host memory.
fn checksum(address: u64, bytes: u64) -> u64 {
    // SAFETY: the range of a copy that the program has just asked for.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, bytes as usize) };
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    })
}

impl Sim {
    /// Checks a new use of pinned memory against the copies that may still be under way, and remembers it.
    pub(crate) fn use_host(
        &mut self,
        name: &str,
        address: u64,
        bytes: u64,
        writes: bool,
        lane: u32,
        time: u32,
    ) {
        self.retire_host_uses();
        self.check_host(name, address, bytes, writes, lane);
        let content = if writes { 0 } else { checksum(address, bytes) };
        self.host_memory.uses.push(Use {
            address,
            bytes,
            writes,
            lane,
            time,
            name: name.into(),
            content,
        });
    }

    /// Reports a use of host memory that a copy of another lane may still be using.
    pub(crate) fn check_host(&mut self, name: &str, address: u64, bytes: u64, writes: bool, lane: u32) {
        let overlapping =
            |other: &&Use| address < other.address + other.bytes && other.address < address + bytes;
        let found = self
            .host_memory
            .uses
            .iter()
            .filter(overlapping)
            .find(|other| (writes || other.writes) && other.lane != lane)
            .cloned();
        if let Some(other) = found {
            self.report(
                Rule::HostBufferReused,
                format!(
                    "{name} uses {bytes} bytes of the host while {} may still be using them",
                    other.name
                ),
            );
        }
    }

    /// Forgets the uses of memory that ends.
    pub(crate) fn forget_host(&mut self, address: u64, bytes: u64) {
        self.host_memory
            .uses
            .retain(|u| u.address + u.bytes <= address || address + bytes <= u.address);
    }

    /// Forgets the copies that the host knows to be over, and reports sources that were overwritten before that.
    pub(crate) fn retire_host_uses(&mut self) {
        let uses = std::mem::take(&mut self.host_memory.uses);
        let (over, open): (Vec<Use>, Vec<Use>) =
            uses.into_iter().partition(|u| self.host_has_seen(u.lane, u.time));
        drop(over);
        for other in &open {
            if !other.writes && checksum(other.address, other.bytes) != other.content {
                self.report(
                    Rule::HostBufferReused,
                    format!(
                        "the host overwrote {} bytes while {} may still be reading them",
                        other.bytes, other.name
                    ),
                );
            }
        }
        self.host_memory.uses = open;
    }
}
