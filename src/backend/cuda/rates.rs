//! What a device reaches, measured: the two rates that everything else is held against.

use cudarc::driver::result;

use super::blas::{Factor, Finish, Matrices, Product, ProductPlan};
use super::launch::{Element, Launcher};
use super::memory::Buffer;
use super::staging::write;
use super::{Cuda, Resources, timing};
use crate::error::{Error, Result};
use crate::plan::Rates;
use crate::rng::{Purpose, Stream};

/// A measurement is long enough when one execution lasts this many seconds.
const LONG_ENOUGH: f64 = 0.0025;
/// Sides of the matrices: doubled until a product is long enough.
const SIDES: std::ops::RangeInclusive<usize> = 256..=8192;
/// Bytes of the copied block: doubled in the same way; the largest is far larger than any cache.
const COPIES: std::ops::RangeInclusive<usize> = 4 << 20..=512 << 20;

impl Cuda {
    /// FLOP/s of a large square product in the back end's precision (cuBLASLt), and bytes/s of copies from device
    /// memory to device memory, read and written together.
    pub fn measure_rates(&self) -> Result<Rates> {
        let resources = &*self.lock();
        Ok(Rates {
            flops: grown(SIDES, |side| matrix_rate(resources, side))?,
            bandwidth: grown(COPIES, |bytes| copy_rate(&resources.launcher, bytes))?,
        })
    }
}

/// What was done in how many seconds.
struct Measured {
    amount: usize,
    seconds: f64,
}

/// The rate at the first size that takes long enough, at the largest one, or at the largest that memory is left
/// for.
fn grown(
    sizes: std::ops::RangeInclusive<usize>,
    mut measure: impl FnMut(usize) -> Result<Measured>,
) -> Result<f64> {
    let mut size = *sizes.start();
    let mut measured = measure(size)?;
    while measured.seconds < LONG_ENOUGH && 2 * size <= *sizes.end() {
        size *= 2;
        measured = match measure(size) {
            Err(Error::OutOfMemory { .. }) => break,
            larger => larger?,
        };
    }
    Ok(measured.amount as f64 / measured.seconds)
}

fn matrix_rate(resources: &Resources, side: usize) -> Result<Measured> {
    let Resources {
        launcher,
        blas,
        workspace,
        precision,
        ..
    } = resources;
    let element = Element::of(*precision);
    let product = Product {
        factors: element,
        result: element,
        m: side,
        n: side,
        k: side,
        a: Factor::Plain,
        b: Factor::Transposed,
        finish: Finish::None,
    };
    let plan = ProductPlan::new(blas, *precision, product)?;
    let bytes = side * side * size_of::<f32>();
    let matrix = || Buffer::new(launcher.stream(), "a matrix that is measured", bytes);
    let (a, b, c) = (matrix()?, matrix()?, matrix()?);
    fill(launcher, &a)?;
    fill(launcher, &b)?;
    let matrices = Matrices {
        a: a.at(0),
        b: b.at(0),
        c: c.at(0),
        bias: 0,
    };
    let seconds = timing::seconds(launcher, || {
        // SAFETY: f32 matrices of that side, as large as those of any precision; the workspace is the device's, which
        // begins with room for products.
        unsafe { plan.execute(blas, launcher.stream(), matrices, workspace.at(0)) }
    })?;
    Ok(Measured {
        amount: 2 * side * side * side,
        seconds,
    })
}

fn copy_rate(launcher: &Launcher, bytes: usize) -> Result<Measured> {
    let block = || Buffer::new(launcher.stream(), "a block that is copied", bytes);
    let (from, to) = (block()?, block()?);
    fill(launcher, &from)?;
    let seconds = timing::seconds(launcher, || {
        // SAFETY: two blocks of that size, which are freed on the same stream.
        let done =
            unsafe { result::memcpy_dtod_async(to.at(0), from.at(0), bytes, launcher.stream().cu_stream()) };
        launcher.check("copying on the device", done)
    })?;
    Ok(Measured {
        amount: 2 * bytes,
        seconds,
    })
}

/// Random numbers: how fast a device multiplies depends on the bits that it toggles. Every 4 bytes are one f32 in
/// [-1, 1) and, at the same time, two bf16 in it.
pub(super) fn fill(launcher: &Launcher, buffer: &Buffer) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let mut stream = Stream::new(1, 0, Purpose::Synthetic, 1);
    let words: Vec<u32> = (0..CHUNK.min(buffer.len()))
        .map(|_| {
            let uniform = stream.next_u32() as f32 / (1u64 << 31) as f32 - 1.0;
            let bf16 = uniform.to_bits() >> 16;
            bf16 << 16 | bf16
        })
        .collect();
    let mut at = 0;
    while at < buffer.len() {
        let count = words.len().min(buffer.len() - at);
        // SAFETY: inside the buffer.
        unsafe { write(launcher, buffer.element(at), &words[..count])? };
        at += count;
    }
    Ok(())
}
