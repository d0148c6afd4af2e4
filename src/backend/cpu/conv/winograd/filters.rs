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
        let first = (output * padded(shape.inputs) + i) * LANES;
        for_size!(size, F => square_to_u::<F, _, _>(cpu.isa, &square, first, stride, streams, u));
        if streams {
            stream::fence(cpu.isa);
        }
    });
}

vectorised! {
    fn square_to_u<S, F: Minimal<O, I>, const O: usize, const I: usize>(
        s,
        square: &Square,
        first: usize,
        stride: usize,
        streams: bool,
        u: Parts<'_, f32>,
    ) {
        for (c, filter) in square.as_chunks::<TAPS>().0.iter().enumerate() {
            for register in 0..S::REGISTERS {
                both_ways!(
                    s, F::filter, FILTER to I,
                    (i, j) => s.load(&filter[FILTER * i + j], register),
                    (i, j, value) => {
                        let at = first + (I * i + j) * stride + c * LANES;
                        // SAFETY: the task alone has these channels.
                        let to = unsafe { u.range(at, LANES) };
                        let to = to.try_into().expect("a pixel");
                        if streams {
                            s.stream(value, to, register);
                        } else {
                            s.store(value, to, register);
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
        let first = (output * padded(shape.inputs) + i) * LANES;
        for_size!(size, F => square_from_du::<F, _, _>(cpu.isa, &du[first..], stride, sum_len, &mut square));
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
        stride: usize,
        sum_len: usize,
        square: &mut Square,
    ) {
        for (c, filter) in square.as_chunks_mut::<TAPS>().0.iter_mut().enumerate() {
            for t in 0..I * I {
                stream::prefetch(du.as_ptr().wrapping_add(t * stride + (c + CHANNELS_AHEAD) * LANES));
            }
            for register in 0..S::REGISTERS {
                both_ways!(
                    s, F::filter_gradient, I to FILTER,
                    (i, j) => {
                        let at = (I * i + j) * stride + c * LANES;
                        let mut sum = s.load(du[at..].first_chunk().expect("a pixel"), register);
                        for du in du[at..].chunks(sum_len).skip(1) {
                            sum = s.add(sum, s.load(du.first_chunk().expect("a pixel"), register));
                        }
                        sum
                    },
                    (i, j, value) => s.store(value, &mut filter[FILTER * i + j], register),
                );
            }
        }
    }
}
