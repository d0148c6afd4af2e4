//! How activations lie in memory: (N, C/16, H, W, 16).
//!
//! Channels are cut into groups of 16, which are the innermost index: a pixel of a group is one cache line, one register
//! of AVX-512 or two of AVX. The last group is padded; **padding is zero** in every value and every gradient
//! (but NaN or infinite neighbours may make it NaN). A tensor of fully connected layers, with one pixel, is thus a
//! matrix (N, C) whose rows are padded to a multiple of 16.
//!
//! Nobody outside of this back end sees it: tensors are read and written in logical layout, (N, C, H, W).

use std::sync::atomic::{AtomicU64, Ordering};

use super::Cpu;
use super::isa::{Isa, multiversion};
use super::memory::f32_bytes;
use super::team::Parts;
use super::tile::LANES;
use super::transpose::transpose;
use crate::backend::fold_element;
use crate::shape::Chw;

/// Channels of an image.
const COLOURS: usize = 3;

/// A pixel of a group.
pub(super) type Pixel = [f32; LANES];

/// Groups of 16 channels.
pub(super) fn groups(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// Channels, padding included.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// How many of the channels of `group` are no padding.
pub(super) fn lanes(channels: usize, group: usize) -> usize {
    LANES.min(channels - group * LANES)
}

/// Elements of one group of one image.
pub(super) fn group_len(shape: Chw) -> usize {
    shape.plane() * LANES
}

/// Elements of one image.
pub(super) fn image_len(shape: Chw) -> usize {
    groups(shape.c) * group_len(shape)
}

/// Bytes of a tensor of `batch` images.
pub(super) fn tensor_bytes(batch: usize, shape: Chw) -> usize {
    f32_bytes(batch * image_len(shape))
}

/// One group of one image from logical layout: `to[p][l] = from[l][p]`, padding zero.
pub(super) fn group_from_logical(isa: Isa, lanes: usize, from: &[f32], to: &mut [f32]) {
    let plane = to.len() / LANES;
    if lanes == COLOURS {
        let planes = std::array::from_fn(|l| &from[l * plane..][..plane]);
        return colours_to_pixels(isa, planes, to.as_chunks_mut().0);
    }
    if lanes < LANES {
        to.fill(0.0);
    }
    transpose(isa, (lanes, plane), (from, plane), (to, LANES));
}

multiversion! {
    /// Pixels of an image in one go, padding included.
    fn colours_to_pixels(planes: [&[f32]; COLOURS], to: &mut [Pixel]) {
        let [first, second, third] = planes;
        for (((to, &a), &b), &c) in to.iter_mut().zip(first).zip(second).zip(third) {
            let mut pixel = [0.0; LANES];
            pixel[..COLOURS].copy_from_slice(&[a, b, c]);
            *to = pixel;
        }
    }
}

/// One group of one image to logical layout: `to[l][p] = from[p][l]`.
pub(super) fn group_to_logical(isa: Isa, lanes: usize, from: &[f32], to: &mut [f32]) {
    let plane = from.len() / LANES;
    transpose(isa, (plane, lanes), (from, LANES), (to, plane));
}

/// One image from logical layout.
pub(super) fn image_from_logical(isa: Isa, shape: Chw, values: &[f32], image: &mut [f32]) {
    let groups = image
        .chunks_exact_mut(group_len(shape))
        .zip(values.chunks(group_len(shape)));
    for (group, (image, values)) in groups.enumerate() {
        group_from_logical(isa, lanes(shape.c, group), values, image);
    }
}

/// One image to logical layout.
pub(super) fn image_to_logical(isa: Isa, shape: Chw, image: &[f32], values: &mut [f32]) {
    let groups = image
        .chunks_exact(group_len(shape))
        .zip(values.chunks_mut(group_len(shape)));
    for (group, (image, values)) in groups.enumerate() {
        group_to_logical(isa, lanes(shape.c, group), image, values);
    }
}

/// A whole tensor from logical layout.
pub(super) fn from_logical(cpu: &Cpu, shape: Chw, values: &[f32], tensor: &mut [f32]) {
    let images = values.len() / shape.len();
    let tensor = &mut tensor[..images * image_len(shape)];
    cpu.team.chunks(tensor, group_len(shape), |index, tensor| {
        let (n, group) = (index / groups(shape.c), index % groups(shape.c));
        let values = &values[n * shape.len() + group * group_len(shape)..];
        group_from_logical(cpu.isa, lanes(shape.c, group), values, tensor);
    });
}

/// A whole tensor to logical layout.
pub(super) fn to_logical(cpu: &Cpu, shape: Chw, tensor: &[f32], values: &mut [f32]) {
    let images = values.len() / shape.len();
    let values = Parts::new(values);
    cpu.team.run(images * groups(shape.c), |index, _| {
        let (n, group) = (index / groups(shape.c), index % groups(shape.c));
        let tensor = &tensor[index * group_len(shape)..][..group_len(shape)];
        let lanes = lanes(shape.c, group);
        // SAFETY: this task alone has this group of this image.
        let values =
            unsafe { values.range(n * shape.len() + group * group_len(shape), lanes * shape.plane()) };
        group_to_logical(cpu.isa, lanes, tensor, values);
    });
}

/// The fold ([`fold_element`]) of `batch` images, by logical index: a wrapping sum, so that no order matters.
pub(super) fn fold(cpu: &Cpu, batch: usize, shape: Chw, tensor: &[f32]) -> u64 {
    let sum = AtomicU64::new(0);
    cpu.team.run(batch * groups(shape.c), |index, _| {
        let (n, group) = (index / groups(shape.c), index % groups(shape.c));
        let tensor = &tensor[index * group_len(shape)..][..group_len(shape)];
        let first = n * shape.len() + group * group_len(shape);
        let part = fold_group(cpu.isa, first, lanes(shape.c, group), tensor);
        sum.fetch_add(part, Ordering::Relaxed);
    });
    sum.into_inner()
}

multiversion! {
    fn fold_group(first: usize, lanes: usize, tensor: &[f32]) -> u64 {
        let pixels = tensor.as_chunks::<LANES>().0;
        let mut sum = 0u64;
        for (p, pixel) in pixels.iter().enumerate() {
            for (l, &value) in pixel.iter().enumerate().take(lanes) {
                sum = sum.wrapping_add(fold_element(first + l * pixels.len() + p, value));
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_folds_alike() {
        let cpu = Cpu::new(2).unwrap();
        for shape in [
            Chw::new(1, 1, 1),
            Chw::new(3, 5, 4),
            Chw::new(16, 3, 5),
            Chw::new(37, 7, 9),
            Chw::new(1000, 1, 1),
        ] {
            let values: Vec<f32> = (0..3 * shape.len()).map(|i| i as f32 + 1.0).collect();
            let mut tensor = vec![f32::NAN; 3 * image_len(shape)];
            from_logical(&cpu, shape, &values, &mut tensor);
            assert_eq!(tensor.iter().filter(|&&x| x != 0.0).count(), values.len());
            let second = LANES * (shape.plane() - 1); // the last pixel of channel 0
            assert_eq!(tensor[second], values[shape.plane() - 1]);
            let mut back = vec![0.0; values.len()];
            to_logical(&cpu, shape, &tensor, &mut back);
            assert_eq!(back, values);
            let fold_of = |(i, &x): (usize, &f32)| fold_element(i, x);
            let expected = values.iter().enumerate().map(fold_of).fold(0, u64::wrapping_add);
            assert_eq!(fold(&cpu, 3, shape, &tensor), expected);
        }
    }
}
