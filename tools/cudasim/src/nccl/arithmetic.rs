//! Elements and their reductions.

use cudarc::nccl::sys::{ncclDataType_t as Type, ncclRedOp_t as Operator};
use half::bf16;

/// Types of elements that are simulated; the rest is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    I8,
    U8,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Bf16,
}

impl Element {
    const KNOWN: [(Type, Self); 9] = [
        (Type::ncclInt8, Self::I8),
        (Type::ncclUint8, Self::U8),
        (Type::ncclInt32, Self::I32),
        (Type::ncclUint32, Self::U32),
        (Type::ncclInt64, Self::I64),
        (Type::ncclUint64, Self::U64),
        (Type::ncclFloat32, Self::F32),
        (Type::ncclFloat64, Self::F64),
        (Type::ncclBfloat16, Self::Bf16),
    ];

    pub(super) fn of(number: u32) -> Option<Self> {
        let found = Self::KNOWN.iter().find(|(known, _)| *known as u32 == number);
        found.map(|(_, element)| *element)
    }

    /// NCCL's number.
    pub(super) fn number(self) -> u64 {
        let found = Self::KNOWN.iter().find(|(_, element)| *element == self);
        found
            .map(|(known, _)| *known as u64)
            .expect("all are in the table")
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

/// What a reduction does with two values; `Average` divides the sum by the number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Product,
    Max,
    Min,
    Average,
}

impl Reduction {
    const KNOWN: [(Operator, Self); 5] = [
        (Operator::ncclSum, Self::Sum),
        (Operator::ncclProd, Self::Product),
        (Operator::ncclMax, Self::Max),
        (Operator::ncclMin, Self::Min),
        (Operator::ncclAvg, Self::Average),
    ];

    pub(super) fn of(number: u32) -> Option<Self> {
        let found = Self::KNOWN.iter().find(|(known, _)| *known as u32 == number);
        found.map(|(_, reduction)| *reduction)
    }

    /// NCCL's number.
    pub(super) fn number(self) -> u64 {
        let found = Self::KNOWN.iter().find(|(_, reduction)| *reduction == self);
        found
            .map(|(known, _)| *known as u64)
            .expect("all are in the table")
    }
}

/// A value that can be reduced.
trait Value: Copy {
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn combine(self, other: Self, reduction: Reduction) -> Self;
    fn divided(self, ranks: usize) -> Self;
}

macro_rules! values {
    ($($type:ty: |$a:ident, $b:ident| sum $sum:expr, product $product:expr;)+) => {
        $(impl Value for $type {
            fn read(bytes: &[u8]) -> Self {
                Self::from_ne_bytes(bytes.try_into().expect("one element"))
            }

            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_ne_bytes());
            }

            fn combine(self, other: Self, reduction: Reduction) -> Self {
                let ($a, $b) = (self, other);
                match reduction {
                    Reduction::Sum | Reduction::Average => $sum,
                    Reduction::Product => $product,
                    Reduction::Max => $a.max($b),
                    Reduction::Min => $a.min($b),
                }
            }

            fn divided(self, ranks: usize) -> Self {
                self / ranks as Self
            }
        })+
    };
}

values! {
    i8: |a, b| sum a.wrapping_add(b), product a.wrapping_mul(b);
    u8: |a, b| sum a.wrapping_add(b), product a.wrapping_mul(b);
    i32: |a, b| sum a.wrapping_add(b), product a.wrapping_mul(b);
    u32: |a, b| sum a.wrapping_add(b), product a.wrapping_mul(b);
    i64: |a, b| sum a.wrapping_add(b), product a.wrapping_mul(b);
    u64: |a, b| sum a.wrapping_add(b), product a.wrapping_mul(b);
    f32: |a, b| sum a + b, product a * b;
    f64: |a, b| sum a + b, product a * b;
}

/// Every result is rounded to nearest, ties to even.
impl Value for bf16 {
    fn read(bytes: &[u8]) -> Self {
        Self::from_ne_bytes(bytes.try_into().expect("one element"))
    }

    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_ne_bytes());
    }

    fn combine(self, other: Self, reduction: Reduction) -> Self {
        Self::from_f32(self.to_f32().combine(other.to_f32(), reduction))
    }

    fn divided(self, ranks: usize) -> Self {
        Self::from_f32(self.to_f32().divided(ranks))
    }
}

/// The reduction of one array per rank. NCCL promises no order: here it is that of a ring, in which every rank begins
/// with another part of the array; `start` turns it. The arrays are those elements from `first` on of `all` that are
/// wanted.
pub(super) fn reduce(
    element: Element,
    reduction: Reduction,
    arrays: &[Vec<u8>],
    start: usize,
    (first, all): (usize, usize),
) -> Vec<u8> {
    let order = |i: usize| start + (first + i) * arrays.len() / all;
    match element {
        Element::I8 => reduce_as::<i8>(reduction, arrays, order),
        Element::U8 => reduce_as::<u8>(reduction, arrays, order),
        Element::I32 => reduce_as::<i32>(reduction, arrays, order),
        Element::U32 => reduce_as::<u32>(reduction, arrays, order),
        Element::I64 => reduce_as::<i64>(reduction, arrays, order),
        Element::U64 => reduce_as::<u64>(reduction, arrays, order),
        Element::F32 => reduce_as::<f32>(reduction, arrays, order),
        Element::F64 => reduce_as::<f64>(reduction, arrays, order),
        Element::Bf16 => reduce_as::<bf16>(reduction, arrays, order),
    }
}

/// `first` says which array comes first in the sum of element i.
fn reduce_as<T: Value>(reduction: Reduction, arrays: &[Vec<u8>], first: impl Fn(usize) -> usize) -> Vec<u8> {
    let (ranks, bytes) = (arrays.len(), size_of::<T>());
    let mut result = vec![0; arrays[0].len()];
    for (i, place) in result.chunks_exact_mut(bytes).enumerate() {
        let range = i * bytes..(i + 1) * bytes;
        let first = first(i);
        let mut in_ring = (0..ranks).map(|step| T::read(&arrays[(first + step) % ranks][range.clone()]));
        let begin = in_ring.next().expect("a communicator has ranks");
        let value = in_ring.fold(begin, |sum, value| sum.combine(value, reduction));
        let value = match reduction {
            Reduction::Average => value.divided(ranks),
            Reduction::Sum | Reduction::Product | Reduction::Max | Reduction::Min => value,
        };
        value.write(place);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays<const N: usize>(values: &[[f32; N]]) -> Vec<Vec<u8>> {
        let bytes = |array: &[f32; N]| array.iter().flat_map(|value| value.to_ne_bytes()).collect();
        values.iter().map(bytes).collect()
    }

    #[test]
    fn sums_are_exact_where_any_order_is() {
        let input = arrays(&[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]]);
        for start in 0..3 {
            let sum = reduce(Element::F32, Reduction::Sum, &input, start, (0, 3));
            assert_eq!(sum, arrays(&[[111.0, 222.0, 333.0]])[0]);
            let mean = reduce(Element::F32, Reduction::Average, &input, start, (0, 3));
            assert_eq!(mean, arrays(&[[37.0, 74.0, 111.0]])[0]);
        }
    }

    #[test]
    fn the_order_of_a_sum_depends_on_the_ring() {
        let input = arrays(&[[1.0], [1e30], [-1e30]]);
        let sums: Vec<Vec<u8>> = (0..3)
            .map(|start| reduce(Element::F32, Reduction::Sum, &input, start, (0, 1)))
            .collect();
        assert!(sums.iter().any(|sum| *sum != sums[0]));
    }
    #[test]
    fn a_part_is_summed_as_in_the_whole() {
        let input = arrays(&[
            [1.0, 1e30, 3.0, 1.0],
            [1e30, 1.0, -3.0, 1e30],
            [-1e30, -1e30, 1e30, -1e30],
        ]);
        let part: Vec<Vec<u8>> = input.iter().map(|array| array[8..].to_vec()).collect();
        for start in 0..3 {
            let whole = reduce(Element::F32, Reduction::Sum, &input, start, (0, 4));
            let part = reduce(Element::F32, Reduction::Sum, &part, start, (2, 4));
            assert_eq!(whole[8..], part);
        }
    }
}
