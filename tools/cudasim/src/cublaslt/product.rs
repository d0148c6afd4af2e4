//! What the simulated cuBLASLt computes: plain loops in f64, rounded once to f32, and to the result's type where that is
//! narrower.

use cudarc::cublaslt::sys::cublasLtEpilogue_t as Epilogue;
use cudarc::cublaslt::sys::cublasStatus_t as Status;

use super::{INVALID, UNSUPPORTED};
use crate::library::Float;

#[derive(Debug, Clone, Copy)]
pub(super) struct Description {
    /// What becomes of a factor before it is multiplied.
    pub(super) rounding: fn(f32) -> f32,
    pub(super) transposed: [bool; 2],
    pub(super) epilogue: u32,
    pub(super) bias: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) float: Float,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) ld: usize,
}

impl Layout {
    pub(super) fn bytes(self) -> usize {
        (self.ld * (self.columns - 1) + self.rows) * self.float.bytes()
    }

    /// Rows and columns of op(A).
    fn shape(self, transposed: bool) -> [usize; 2] {
        if transposed {
            [self.columns, self.rows]
        } else {
            [self.rows, self.columns]
        }
    }

    fn at(self, row: usize, column: usize, transposed: bool) -> usize {
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        row + column * self.ld
    }
}

/// The product D = op(A) op(B), checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) description: Description,
    pub(super) a: Layout,
    pub(super) b: Layout,
    pub(super) d: Layout,
}

impl Product {
    pub(super) fn new(
        description: Description,
        a: Layout,
        b: Layout,
        c: Layout,
        d: Layout,
    ) -> Result<Self, Status> {
        let [m, k] = a.shape(description.transposed[0]);
        let [inner, n] = b.shape(description.transposed[1]);
        if k != inner || [d.rows, d.columns] != [m, n] || c != d {
            return Err(INVALID);
        }
        // Table "Supported data types" of cublasLtMatmul, with compute and scale type 32F.
        match (a.float, b.float, d.float) {
            (Float::F32, Float::F32, Float::F32) | (Float::Bf16, Float::Bf16, _) => {}
            _ => return Err(UNSUPPORTED),
        }
        Ok(Self { description, a, b, d })
    }

    /// A bias has the type of D, unless something else was said; nothing else is simulated.
    pub(super) fn bias_float(&self) -> Float {
        self.d.float
    }

    pub(super) fn has_bias(&self) -> bool {
        self.description.epilogue & Epilogue::CUBLASLT_EPILOGUE_BIAS as u32 != 0
    }

    fn has_relu(&self) -> bool {
        self.description.epilogue & Epilogue::CUBLASLT_EPILOGUE_RELU as u32 != 0
    }

    /// # Safety
    ///
    /// The addresses hold matrices of the layouts, and a bias of D's rows where there is one.
    pub(super) unsafe fn run(&self, a: u64, b: u64, d: u64) {
        let [transposed_a, transposed_b] = self.description.transposed;
        let inner = self.a.shape(transposed_a)[1];
        // SAFETY: the caller vouches for the addresses; the indices are inside the layouts.
        let factor = |matrix: &Layout, start: u64, at: usize| unsafe {
            f64::from((self.description.rounding)(matrix.float.read(start as usize, at)))
        };
        let rows = self.d.rows;
        // Column after column.
        let left: Vec<f64> = (0..inner * rows)
            .map(|i| factor(&self.a, a, self.a.at(i % rows, i / rows, transposed_a)))
            .collect();
        let mut sums = vec![0.0f64; rows];
        for column in 0..self.d.columns {
            sums.fill(0.0);
            for (k, left) in left.chunks_exact(rows).enumerate() {
                let right = factor(&self.b, b, self.b.at(k, column, transposed_b));
                sums.iter_mut()
                    .zip(left)
                    .for_each(|(sum, left)| *sum += left * right);
            }
            for (row, sum) in sums.iter().enumerate() {
                let mut sum = *sum;
                if self.has_bias() {
                    let bias = self.description.bias as usize;
                    // SAFETY: one element per row.
                    sum += f64::from(unsafe { self.bias_float().read(bias, row) });
                }
                let value = sum as f32;
                let value = if self.has_relu() && value < 0.0 {
                    0.0
                } else {
                    value
                };
                // SAFETY: the index is inside the layout.
                unsafe {
                    self.d
                        .float
                        .write(d as usize, self.d.at(row, column, false), value)
                };
            }
        }
    }
}
