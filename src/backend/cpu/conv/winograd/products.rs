//! The matrix products in between: one for every element of a tile and block of tiles.

use super::super::super::Cpu;
use super::super::super::layout::{groups, padded};
use super::super::super::team::Parts;
use super::super::super::tile::{self, Ahead, Depth, LANES, Start};
use super::super::Shape;
use super::Blocks;

/// Groups of input channels of a block of the depth: the filters of two panels (32 KB) stay near the L1 cache while all
/// tiles of a block use them.
const BLOCK_INPUTS: usize = 16;
/// Tiles of a block of the filter gradient's depth: two panels (16 KB) stay in the L1 cache.
const BLOCK_TILES: usize = 128;
/// Groups of output channels of one task: as many times V is read from the last-level cache, and there are still a few
/// times as many tasks as threads.
const TASK_OUTPUTS: usize = 16;
/// Groups of output channels of one tile of the kernel.
const PANELS: usize = 2;

/// The sums of a tile: `rows` of each panel, whose sums lie `step` elements apart from `at` on.
///
/// # Safety
/// As for [`Parts::range`].
unsafe fn panels<'a, const P: usize>(
    sums: Parts<'a, f32>,
    (at, step): (usize, usize),
    rows: usize,
) -> [&'a mut [[f32; LANES]]; P] {
    std::array::from_fn(|p| {
        // SAFETY: says the caller, and panels are further apart than a tile is long.
        let panel = unsafe { sums.range(at + p * step, rows * LANES) };
        panel.as_chunks_mut().0
    })
}

/// Lines of the panels of U that come next, `inputs` groups of either from `at` on and `panel` elements apart: the part that
/// one of several strips fetches. Even strips share in one panel, odd ones in the other.
fn next_panels(at: *const f32, panel: usize, inputs: usize, (strip, strips): (usize, usize)) -> Ahead {
    let lines = LANES.div_ceil(strips.div_ceil(2));
    let before = strip / 2 * lines * inputs * LANES;
    Ahead {
        at: at.wrapping_add(strip % 2 * panel + before),
        lines,
        step: lines * LANES,
    }
}

/// `M[t] = V[t] * U[t]` for a block of `count` tiles. Overwrites M.
///
/// Rows of a kernel are tiles, lanes are output channels, the depth is the input channels. While a strip is computed, its
/// share of the next panels of U is fetched, and with the first panels also the next strip of V.
pub(super) fn multiply(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    count: usize,
    v: &[f32],
    u: &[f32],
    m: &mut [f32],
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let chunks = outputs.div_ceil(TASK_OUTPUTS);
    let u_panel = padded(shape.inputs) * LANES;
    let m_panel = blocks.block * LANES;
    let strips = tile::strips(cpu.isa, count);
    let m = Parts::new(m);
    cpu.team.run(blocks.size.elements() * chunks, |task, _| {
        let (t, chunk) = (task / chunks, task % chunks);
        let v = &v[t * blocks.v_stride..][..inputs * blocks.block * LANES];
        let u = &u[t * blocks.u_stride..][..blocks.u_stride];
        let outputs = chunk * TASK_OUTPUTS..outputs.min((chunk + 1) * TASK_OUTPUTS);
        for input in (0..inputs).step_by(BLOCK_INPUTS) {
            let start = if input == 0 { Start::Zero } else { Start::Held };
            let block = BLOCK_INPUTS.min(inputs - input);
            for output in outputs.clone().step_by(PANELS) {
                let place = |output: usize, input: usize| output * u_panel + input * LANES * LANES;
                let next = match (output + PANELS < outputs.end, input + block < inputs) {
                    (true, _) => Some(place(output + PANELS, input)),
                    (false, true) => Some(place(outputs.start, input + block)),
                    (false, false) => None,
                };
                let panels_of_u = (&u[place(output, input)..], u_panel);
                for strip in 0..strips {
                    let rows_of_v = |strip: usize| {
                        let (first, rows) = tile::strip(cpu.isa, count, strip);
                        (&v[(input * blocks.block + first) * LANES..], first, rows)
                    };
                    let (v, first, rows) = rows_of_v(strip);
                    let next_u = next.map_or(Ahead::NONE, |next| {
                        next_panels(u[next..].as_ptr(), u_panel, block, (strip, strips))
                    });
                    let next_v = if output == outputs.start && strip + 1 < strips {
                        let (v, _, lines) = rows_of_v(strip + 1);
                        Ahead {
                            at: v.as_ptr(),
                            lines,
                            step: m_panel,
                        }
                    } else {
                        Ahead::NONE
                    };
                    let depth = Depth {
                        count: [LANES, block, 1],
                        a: [1, m_panel, 0],
                        b: [LANES, LANES * LANES, 0],
                        ahead: [next_u, next_v],
                    };
                    let (v, u) = ((v, LANES), panels_of_u);
                    let at = (t * blocks.m_stride + output * m_panel + first * LANES, m_panel);
                    // SAFETY: this task alone has these outputs of this t.
                    unsafe {
                        if outputs.end - output < PANELS {
                            tile::multiply::<1>(cpu.isa, &depth, v, u, start, panels(m, at, rows));
                        } else {
                            tile::multiply::<PANELS>(cpu.isa, &depth, v, u, start, panels(m, at, rows));
                        }
                    }
                }
            }
        }
    });
}

/// `dU[t] = V[t]^T * dM[t]`, or added to what the blocks before gave (`start`).
///
/// Rows of a kernel are input channels, lanes are output channels, the depth is the tiles. While a tile of the kernel is
/// computed, the sums that the next one begins with are fetched.
pub(super) fn multiply_transposed(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    (count, start): (usize, Start),
    (v, dm): (&[f32], &[f32]),
    du: &mut [f32],
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let chunks = outputs.div_ceil(TASK_OUTPUTS);
    let u_panel = padded(shape.inputs) * LANES;
    let m_panel = blocks.block * LANES;
    let du = Parts::new(du);
    cpu.team.run(blocks.size.elements() * chunks, |task, _| {
        let (t, chunk) = (task / chunks, task % chunks);
        let v = &v[t * blocks.v_stride..][..blocks.v_stride];
        let dm = &dm[t * blocks.m_stride..][..blocks.m_stride];
        let outputs = chunk * TASK_OUTPUTS..outputs.min((chunk + 1) * TASK_OUTPUTS);
        for first in (0..count).step_by(BLOCK_TILES) {
            let start = if first == 0 { start } else { Start::Held };
            for output in outputs.clone().step_by(PANELS) {
                let dm = (&dm[output * m_panel + first * LANES..], m_panel);
                for input in 0..inputs {
                    let v = &v[(input * blocks.block + first) * LANES..];
                    for strip in 0..tile::strips(cpu.isa, LANES) {
                        let (lane, rows) = tile::strip(cpu.isa, LANES, strip);
                        let v = (&v[lane..], 1);
                        let at = t * blocks.u_stride + output * u_panel + (input * LANES + lane) * LANES;
                        let next_sums = |panel: usize| Ahead {
                            at: du.address(at + rows * LANES + panel * u_panel),
                            lines: rows,
                            step: 0,
                        };
                        let depth = Depth {
                            ahead: [next_sums(0), next_sums(1)],
                            ..Depth::flat(BLOCK_TILES.min(count - first), LANES)
                        };
                        let at = (at, u_panel);
                        // SAFETY: this task alone has these outputs of this t.
                        unsafe {
                            if outputs.end - output < PANELS {
                                tile::multiply::<1>(cpu.isa, &depth, v, dm, start, panels(du, at, rows));
                            } else {
                                tile::multiply::<PANELS>(cpu.isa, &depth, v, dm, start, panels(du, at, rows));
                            }
                        }
                    }
                }
            }
        }
    });
}
