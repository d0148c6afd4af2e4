//! Filters between their own layout and the transformed one, `U[t][K/16][C][16]`.

use super::super::super::Cpu;
use super::super::super::layout::{groups, lanes, padded};
use super::super::super::memory::f32_bytes;
use super::super::super::simd::vectorised;
use super::super::super::stream;
use super::super::super::team::Parts;
use super::super::super::tile::LANES;
use super::super::super::transpose::transpose;
use super::super::{Orientation, STREAMED_BYTES, Shape};
use super::TileSize;
use super::planes::{Extent, Planes, PlanesMut};
use super::transform::{FILTER, Minimal, both_ways, for_size};

/// Input channels by which dU is fetched ahead: no processor guesses what comes next in 36 planes.
const CHANNELS_AHEAD: usize = 3;
/// Elements of a filter over one channel.
const TAPS: usize = FILTER * FILTER;

/// The filters of 16 input channels and 16 output channels: `[input][tap][output]`.
type Square = [[f32; LANES]; LANES * TAPS];

/// `U = G w G^T`, zero for padding. weights: (K, C, 3, 3), or (C, K, 3, 3) where they are to be turned round.
pub(super) fn transform(
    cpu: &Cpu,
    (shape, size): (Shape, TileSize),
    weights: &[f32],
    orientation: Orientation,
    stride: usize,
    u: &mut [f32],
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let streams = f32_bytes(u.len()) > STREAMED_BYTES;
    let u = Parts::new(u);
    cpu.team.run(inputs * outputs, |task, _| {
        let (output, input) = (task / inputs, task % inputs);
        let mut square: Square = [[0.0; LANES]; LANES * TAPS];
        let (i, o) = (input * LANES, output * LANES);
        let (count_i, count_o) = (lanes(shape.inputs, input), lanes(shape.outputs, output));
        match orientation {
            Orientation::Straight => {
                let from = &weights[(o * shape.inputs + i) * TAPS..];
                transpose(
                    cpu.isa,
                    (count_o, count_i * TAPS),
                    (from, shape.inputs * TAPS),
                    (square.as_flattened_mut(), LANES),
                );
            }
            Orientation::Turned => {
                for (l, square) in square.chunks_exact_mut(TAPS).take(count_i).enumerate() {
                    let from = &weights[((i + l) * shape.outputs + o) * TAPS..];
                    transpose(
                        cpu.isa,
                        (count_o, TAPS),
                        (from, TAPS),
                        (square.as_flattened_mut(), LANES),
                    );
                    square.reverse();
                }
            }
        }
        let extent = extent(shape, (output, i), stride);
        match streams {
            true => for_size!(size, F => square_to_u::<F, _, _, STREAMED>(cpu.isa, &square, u, extent)),
            false => for_size!(size, F => square_to_u::<F, _, _, CACHED>(cpu.isa, &square, u, extent)),
        }
        if streams {
            stream::fence(cpu.isa);
        }
    });
}

/// Where the filters of 16 input channels, from one on, and of one group of output channels are in U or dU.
fn extent(shape: Shape, (output, input): (usize, usize), stride: usize) -> Extent {
    Extent {
        start: (output * padded(shape.inputs) + input) * LANES,
        stride,
        count: LANES,
    }
}

/// How filters are written: to the caches or past them. A function is compiled for each.
const CACHED: usize = 0;
const STREAMED: usize = 1;

vectorised! {
    fn square_to_u<S, F: Minimal<O, I>, const O: usize, const I: usize, const HOW: usize>(
        s,
        square: &Square,
        u: Parts<'_, f32>,
        extent: Extent,
    ) {
        // SAFETY: the task alone has these channels.
        let u: PlanesMut<'_, I> = unsafe { PlanesMut::new(u, extent) };
        for (c, filter) in square.as_chunks::<TAPS>().0.iter().enumerate() {
            for register in 0..S::REGISTERS {
                both_ways!(
                    s, F::filter, FILTER to I,
                    (i, j) => s.load(&filter[FILTER * i + j], register),
                    (i, j, value) => {
                        // SAFETY: there are 16 channels; each of their pixels is written once.
                        let to = unsafe { u.pixel(i, j, c) };
                        match HOW {
                            STREAMED => s.stream(value, to, register),
                            _ => s.store(value, to, register),
                        }
                    },
                );
            }
        }
    }
}

/// `dw = G^T dU G`, where dU is a sum of one or several, `sum_len` elements each. dw: (K, C, 3, 3), overwritten.
pub(super) fn gradient(
    cpu: &Cpu,
    (shape, size): (Shape, TileSize),
    (stride, sum_len): (usize, usize),
    du: &[f32],
    dw: &mut [f32],
) {
    let inputs = groups(shape.inputs);
    let dw = Parts::new(dw);
    cpu.team.run(inputs * groups(shape.outputs), |task, _| {
        let (output, input) = (task / inputs, task % inputs);
        let (i, o) = (input * LANES, output * LANES);
        let mut square: Square = [[0.0; LANES]; LANES * TAPS];
        let extent = extent(shape, (output, i), stride);
        for_size!(size, F => square_from_du::<F, _, _>(cpu.isa, du, extent, sum_len, &mut square));
        // To rows of the 16 input channels, one for each output channel.
        let mut rows = [[0.0; LANES * TAPS]; LANES];
        let columns = lanes(shape.inputs, input) * TAPS;
        transpose(
            cpu.isa,
            (LANES * TAPS, LANES),
            (square.as_flattened(), LANES),
            (rows.as_flattened_mut(), LANES * TAPS),
        );
        for (l, row) in rows.iter().enumerate().take(lanes(shape.outputs, output)) {
            // SAFETY: this task alone has these channels.
            let to = unsafe { dw.range(((o + l) * shape.inputs + i) * TAPS, columns) };
            to.copy_from_slice(&row[..columns]);
        }
    });
}

vectorised! {
    fn square_from_du<S, F: Minimal<O, I>, const O: usize, const I: usize>(
        s,
        du: &[f32],
        extent: Extent,
        sum_len: usize,
        square: &mut Square,
    ) {
        let sums = du.len() / sum_len;
        let of = |sum: usize| Planes::<'_, I>::new(&du[sum * sum_len..][..sum_len], extent);
        let first = of(0);
        for (c, filter) in square.as_chunks_mut::<TAPS>().0.iter_mut().enumerate() {
            first.fetch(c + CHANNELS_AHEAD);
            for register in 0..S::REGISTERS {
                both_ways!(
                    s, F::filter_gradient, I to FILTER,
                    (i, j) => {
                        // SAFETY: there are 16 channels.
                        let mut sum = s.load(unsafe { first.pixel(i, j, c) }, register);
                        for index in 1..sums {
                            // SAFETY: as above.
                            sum = s.add(sum, s.load(unsafe { of(index).pixel(i, j, c) }, register));
                        }
                        sum
                    },
                    (i, j, value) => s.store(value, &mut filter[FILTER * i + j], register),
                );
            }
        }
    }
}
