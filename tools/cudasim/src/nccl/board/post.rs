//! Posts: what a side of a meeting asks for and gives, for the other sides to read.
//!
//! A rank's posts lie in slots of its own. A slot's first word is odd or 0 while the slot is free or being written, and
//! another even number for each post, so that a reader can see that what it has read is one post. What is given lies far
//! behind the words, in a part of the file of the rank's own, and is taken out of memory once all have read it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::{Board, SLOTS, SLOTS_USED};
use crate::nccl::clique::Channel;
use crate::nccl::collective::Call;

/// Posts of one rank that somebody has still to read.
const SLOTS_OF_RANK: usize = 1024;

/// Words of a slot: version, channel, number, side, readers left, where the bytes lie and how many, and the call.
const SLOT: usize = 7 + CALL;
const VERSION: usize = 0;
const KEY: Range<usize> = 1..4;
const READERS: usize = 4;
const BYTES: usize = 5;
const CALL_AT: usize = 7;

/// Words of a call.
pub(in crate::nccl) const CALL: usize = 4;

pub(super) const WORDS_OF_RANK: usize = SLOTS_OF_RANK * SLOT;

/// Where the bytes of rank 0 begin, and how far from each other ranks' bytes begin: files are sparse.
const GIVEN: u64 = 1 << 30;
const GIVEN_OF_RANK: u64 = 1 << 36;

const PAGE: u64 = 4096;

/// A post that was read.
pub(in crate::nccl) struct Post {
    pub(in crate::nccl) call: Call,
    slot: usize,
    start: u64,
    bytes: u64,
}

/// Posts of this process that others may still read.
#[derive(Default)]
pub(super) struct Posts {
    /// First word of the slot, and where the bytes lie.
    unread: Vec<(usize, Range<u64>)>,
    /// Where each rank's next bytes go, from the beginning of its part.
    next: BTreeMap<usize, u64>,
}

fn key(channel: Channel, number: u64, side: usize) -> [u64; 3] {
    let channel = match channel {
        Channel::Collective => 0,
        Channel::Transfer { from, to } => 1 + ((from as u64) << 16 | to as u64),
    };
    [channel, number, side as u64]
}

impl Board {
    /// Posts a call and what it gives; `readers` other sides will read it.
    pub(in crate::nccl) fn post(
        &mut self,
        (channel, number, side): (Channel, u64, usize),
        call: &Call,
        given: &[u8],
        readers: usize,
    ) -> io::Result<()> {
        self.take_back();
        let rank = channel.rank_of(side);
        let slot = self.free_slot(rank)?;
        let start = self.put(rank, given)?;
        let version = self.words.at(slot + VERSION);
        version.store(version.load(Ordering::Relaxed) | 1, Ordering::SeqCst);
        let set = |word: usize, value: u64| self.words.at(slot + word).store(value, Ordering::SeqCst);
        let words = KEY.zip(key(channel, number, side));
        words.for_each(|(word, value)| set(word, value));
        set(READERS, readers as u64);
        set(BYTES, start);
        set(BYTES + 1, given.len() as u64);
        let words = (CALL_AT..).zip(call.to_words());
        words.for_each(|(word, value)| set(word, value));
        self.words.at(slot + VERSION).fetch_add(1, Ordering::SeqCst);
        self.posts.unread.push((slot, start..start + given.len() as u64));
        Ok(())
    }

    /// The first word of a slot that nobody reads any more.
    fn free_slot(&self, rank: usize) -> io::Result<usize> {
        let slots = (0..SLOTS_OF_RANK).map(|i| (i, Self::slot(rank, i)));
        let is_free = |slot: usize| {
            let version = self.words.at(slot + VERSION).load(Ordering::SeqCst);
            version == 0 || version % 2 == 1
        };
        let (i, slot) = slots
            .into_iter()
            .find(|(_, slot)| is_free(*slot))
            .ok_or_else(|| io::Error::other(format!("rank {rank} has {SLOTS_OF_RANK} calls under way")))?;
        self.member(rank, SLOTS_USED)
            .fetch_max(i as u64 + 1, Ordering::SeqCst);
        Ok(slot)
    }

    fn slot(rank: usize, i: usize) -> usize {
        SLOTS + (rank * SLOTS_OF_RANK + i) * SLOT
    }

    /// Writes bytes into a rank's part of the file.
    fn put(&mut self, rank: usize, given: &[u8]) -> io::Result<u64> {
        let length = (given.len() as u64).next_multiple_of(PAGE);
        let next = self.posts.next.entry(rank).or_default();
        if *next + length > GIVEN_OF_RANK {
            *next = 0; // long since read
        }
        let start = GIVEN + rank as u64 * GIVEN_OF_RANK + *next;
        *next += length;
        self.file.write_all_at(given, start)?;
        Ok(start)
    }

    /// Frees what all have read.
    fn take_back(&mut self) {
        let (words, file) = (&self.words, &self.file);
        self.posts.unread.retain(|(slot, bytes)| {
            if words.at(slot + READERS).load(Ordering::SeqCst) > 0 {
                return true;
            }
            words.at(slot + VERSION).fetch_add(1, Ordering::SeqCst);
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let length = (bytes.end - bytes.start).next_multiple_of(PAGE);
            if length > 0 {
                // SAFETY: of a file that is open. Where the file system cannot do it, the bytes stay.
                unsafe { libc::fallocate(file.as_raw_fd(), punch, bytes.start as i64, length as i64) };
            }
            false
        });
    }

    /// What a side has posted, once it has.
    pub(in crate::nccl) fn find(&self, channel: Channel, number: u64, side: usize) -> Option<Post> {
        let rank = channel.rank_of(side);
        let used = self.member(rank, SLOTS_USED).load(Ordering::SeqCst) as usize;
        let wanted = key(channel, number, side);
        (0..used.min(SLOTS_OF_RANK))
            .map(|i| Self::slot(rank, i))
            .find_map(|slot| self.read(slot, wanted, rank))
    }

    /// The post in a slot, if it is the wanted one.
    fn read(&self, slot: usize, wanted: [u64; 3], rank: usize) -> Option<Post> {
        let word = |word: usize| self.words.at(slot + word).load(Ordering::SeqCst);
        let version = word(VERSION);
        if version == 0 || version % 2 == 1 || KEY.map(word).ne(wanted) {
            return None;
        }
        let call = std::array::from_fn(|i| word(CALL_AT + i));
        let (start, bytes) = (word(BYTES), word(BYTES + 1));
        if word(VERSION) != version {
            return None; // another post by now; the wanted one stays until all have read it
        }
        let call = Call::from_words(call, rank, self.ranks)?;
        Some(Post {
            call,
            slot,
            start,
            bytes,
        })
    }

    /// Bytes that a post gives; those of `range`, where a post gives any.
    pub(in crate::nccl) fn given(&self, post: &Post, range: Range<usize>) -> io::Result<Vec<u8>> {
        if post.bytes == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; range.len()];
        self.file
            .read_exact_at(&mut bytes, post.start + range.start as u64)?;
        Ok(bytes)
    }

    /// Says that one side has read a post.
    pub(in crate::nccl) fn done_with(&self, post: &Post) {
        self.words.at(post.slot + READERS).fetch_sub(1, Ordering::SeqCst);
    }
}
