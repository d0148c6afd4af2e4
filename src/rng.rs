//! Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//!
//! Every draw of the program is a pure function of (seed, stream position, purpose, layer, index). Nothing is ever
//! "the next number", so draws do not depend on threads, replicas or on where a run was resumed.
//!
//! Key = seed. Counter words = position low, position high, purpose | layer << 16, block. Element `i` of a draw is
//! word `i % 4` of block `i / 4`.

/// What a draw is for. Part of the counter, so that no two uses share numbers. The values are part of the
/// exactness contract and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Purpose {
    /// Initial weights; position = 0, layer = the parameter's index.
    Init = 1,
    /// Permutation of the data set; position = epoch.
    Order = 2,
    /// Replacement of a sample that cannot be decoded; position = the sample's, layer = the try.
    Replace = 3,
    /// Scale, crop, flip and colour of one sample; position = the sample's.
    Augment = 4,
    /// Dropout mask; position = the sample's, layer = the dropout's layer index.
    Dropout = 5,
    /// Shuffling and splitting by tools (`pack`); position = 0.
    Pack = 6,
    /// Synthetic inputs of benchmarks and tests; position = free.
    Synthetic = 7,
}

/// One Philox4x32-10 block.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = M0 * u64::from(c0);
        let p1 = M1 * u64::from(c2);
        let (hi0, lo0) = ((p0 >> 32) as u32, p0 as u32);
        let (hi1, lo1) = ((p1 >> 32) as u32, p1 as u32);
        (c0, c1, c2, c3) = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// The numbers of one (seed, position, purpose, layer): random access by block, or in order.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 3],
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream at its first element.
    pub fn new(seed: u64, position: u64, purpose: Purpose, layer: u16) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [
                position as u32,
                (position >> 32) as u32,
                purpose as u32 | u32::from(layer) << 16,
            ],
            block: 0,
            words: [0; 4],
            used: 4,
        }
    }

    /// Elements `4 * block ..` of the stream; does not move the sequential reader.
    pub fn block(&self, block: u32) -> [u32; 4] {
        let [c0, c1, c2] = self.counter;
        philox4x32_10([c0, c1, c2, block], self.key)
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.words = self.block(self.block);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        let word = self.words[self.used];
        self.used += 1;
        word
    }

    /// The next 64 bits, low word first.
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        u64::from(low) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let low = self.next_u32();
        uniform_from(low, self.next_u32())
    }

    /// Uniform in `0..n`. `n` must not be 0. The bias is below n / 2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal; takes four words.
    pub fn normal(&mut self) -> f64 {
        normal_from([self.next_u32(), self.next_u32(), self.next_u32(), self.next_u32()])
    }
}

/// Uniform in [0, 1) from 64 random bits, of which the upper 53 count.
pub fn uniform_from(low: u32, high: u32) -> f64 {
    ((u64::from(low) | u64::from(high) << 32) >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal from one block, by Box and Muller, with the crate `libm` so that every host draws the same.
pub fn normal_from(block: [u32; 4]) -> f64 {
    let u = 1.0 - uniform_from(block[0], block[1]); // (0, 1]
    let v = uniform_from(block[2], block[3]);
    libm::sqrt(-2.0 * libm::log(u)) * libm::cos(std::f64::consts::TAU * v)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of the authors' library, Random123 (file kat_vectors, "philox4x32 10").
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([!0; 4], [!0; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_stream_reads_its_blocks_in_order() {
        let mut stream = Stream::new(7, 1 << 40, Purpose::Augment, 3);
        let expected: Vec<u32> = (0..3).flat_map(|block| stream.block(block)).collect();
        let read: Vec<u32> = (0..12).map(|_| stream.next_u32()).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn draws_have_the_right_moments() {
        let mut stream = Stream::new(1, 0, Purpose::Synthetic, 0);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let x = stream.normal();
            sum += x;
            squares += x * x;
        }
        assert!((sum / f64::from(n)).abs() < 0.02, "mean {}", sum / f64::from(n));
        assert!(
            (squares / f64::from(n) - 1.0).abs() < 0.02,
            "variance {}",
            squares / f64::from(n)
        );
        let mut seen = [0u32; 7];
        for _ in 0..70_000 {
            seen[stream.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&k| (9_500..10_500).contains(&k)), "{seen:?}");
    }
}
