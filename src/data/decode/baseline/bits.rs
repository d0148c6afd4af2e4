//! Compressed data as bits: stuffed zeros removed, markers kept out (ITU-T T.81, F.1.2.3 and B.1.1.5).

/// Bytes held ready: they stay in the nearest cache.
pub(super) const SIZE: usize = 16 << 10;

/// Bytes that an MCU can take: 6 blocks of 64 symbols of 31 bits, and what is read ahead.
const MCU: usize = 6 * 64 * 4 + 16;

/// Bytes that are looked at together.
const STEP: usize = 32;

/// Bytes that libjpeg may have read ahead of the bits it has used, and some more.
const AHEAD: usize = 16;

/// Why the data stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A marker other than 0xFF00, by its second byte.
    Marker(u8),
    /// The file ends, or fill bytes stand where a marker should.
    Odd,
}

/// Compressed data up to the next marker, piece by piece.
pub(super) struct Reader<'a> {
    /// What is not in `bytes` yet, from the marker on once that is reached.
    rest: &'a [u8],
    end: Option<End>,
    /// Data, then zeros after its end.
    bytes: &'a mut [u8; SIZE],
    filled: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `data`, with `bytes` to work in.
    pub(super) fn new(data: &'a [u8], bytes: &'a mut [u8; SIZE]) -> Self {
        Self {
            rest: data,
            end: None,
            bytes,
            filled: 0,
        }
    }

    /// What `Bits` reads from.
    #[inline(always)]
    pub(super) fn bytes(&self) -> &[u8; SIZE] {
        self.bytes
    }

    /// Makes sure that the bytes of an MCU are there, if only as zeros after the end.
    #[inline(always)]
    pub(super) fn provide(&mut self, bits: Bits) -> Bits {
        if bits.at + MCU > self.filled {
            return self.fill(bits);
        }
        bits
    }

    #[cold]
    fn fill(&mut self, mut bits: Bits) -> Bits {
        if self.end.is_some() && bits.at + MCU <= SIZE {
            return bits;
        }
        // What is in the buffer counts as not used, so its bytes stay.
        let from = bits.at.saturating_sub(size_of::<u64>()).min(self.filled);
        self.bytes.copy_within(from..self.filled, 0);
        self.filled -= from;
        bits.at -= from;
        let (mut rest, mut filled) = (self.rest, self.filled);
        while self.end.is_none() && filled + STEP <= SIZE - MCU {
            let len = match rest.first_chunk::<STEP>() {
                Some(chunk) => {
                    self.bytes[filled..filled + STEP].copy_from_slice(chunk);
                    ordinary(chunk)
                }
                None => {
                    let len = rest.iter().take_while(|&&byte| byte != 0xFF).count();
                    self.bytes[filled..filled + len].copy_from_slice(&rest[..len]);
                    len
                }
            };
            (filled, rest) = (filled + len, &rest[len..]);
            if len == STEP {
                continue;
            }
            match *rest {
                [0xFF, 0, ..] => {
                    self.bytes[filled] = 0xFF;
                    (filled, rest) = (filled + 1, &rest[2..]);
                }
                [0xFF, marker, ..] if marker != 0xFF => self.end = Some(End::Marker(marker)),
                _ => self.end = Some(End::Odd),
            }
        }
        (self.rest, self.filled) = (rest, filled);
        if self.end.is_some() {
            self.bytes[filled..].fill(0);
        }
        bits
    }

    /// Whether no more bits were used than there are.
    #[inline(always)]
    pub(super) fn holds(&self, bits: Bits) -> bool {
        bits.at <= self.filled || bits.used() <= 8 * self.filled
    }

    /// Whether the data ends here, but for the bits that fill the last byte, and `marker` follows.
    pub(super) fn ends_with(&self, bits: Bits, marker: u8) -> bool {
        self.end == Some(End::Marker(marker)) && bits.used().div_ceil(8) == self.filled
    }

    /// Whether there is all that libjpeg may have read ahead.
    pub(super) fn goes_on(&self, bits: Bits) -> bool {
        self.end != Some(End::Odd) || bits.used() / 8 + AHEAD <= self.filled
    }

    /// Goes on behind a marker of two bytes, at which the data ended.
    pub(super) fn restart(&mut self) -> Bits {
        self.rest = &self.rest[2..];
        self.end = None;
        self.filled = 0;
        Bits::default()
    }
}

/// The next bits of what a reader holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bits {
    /// The next bit is the highest. Below those that count there may be some that follow.
    pub(super) buffer: u64,
    /// Bits of the buffer that count.
    count: u32,
    /// The first byte that is not in the buffer.
    at: usize,
}

impl Bits {
    /// Makes at least 56 bits count.
    ///
    /// The load does not wait for the bits just used, only for those used before the last call.
    #[inline(always)]
    pub(super) fn refill(&mut self, bytes: &[u8; SIZE]) {
        let Some(next) = bytes.get(self.at..self.at.wrapping_add(size_of::<u64>())) else {
            return;
        };
        self.buffer |= u64::from_be_bytes(*next.first_chunk().unwrap_or(&[0; 8])) >> self.count;
        self.at += (63 - self.count as usize) >> 3;
        self.count |= 56;
    }

    /// Leaves bits behind that count.
    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count = self.count.wrapping_sub(bits);
    }

    /// Bits left behind, from the start of the bytes.
    fn used(self) -> usize {
        8 * self.at - self.count as usize
    }
}

/// How many bytes come before the first 0xFF.
#[inline(always)]
fn ordinary(bytes: &[u8; STEP]) -> usize {
    let mut len = 0;
    for word in bytes.as_chunks().0 {
        let word = u64::from_le_bytes(*word);
        // The highest bit of the first byte that is 0xFF; above it, perhaps others.
        let found = word & (!word).wrapping_sub(0x0101_0101_0101_0101) & 0x8080_8080_8080_8080;
        if found != 0 {
            return len + (found.trailing_zeros() / 8) as usize;
        }
        len += size_of::<u64>();
    }
    STEP
}
