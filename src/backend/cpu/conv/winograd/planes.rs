//! The planes of V, M and U: one for every element t of a tile.
//!
//! A tile is a pixel of each of them. Where 36 pixels are read or written for every tile, a check for each is most of the
//! work: bounds are checked once for all pixels of a part.

use std::marker::PhantomData;

use super::super::super::layout::Pixel;
use super::super::super::stream;
use super::super::super::team::Parts;
use super::super::super::tile::LANES;

/// Where some neighbouring pixels of every plane are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// First element in the plane of t = 0.
    pub(super) start: usize,
    /// Elements from one plane to the next.
    pub(super) stride: usize,
    /// Pixels of each plane.
    pub(super) count: usize,
}

impl Extent {
    /// Panics unless `planes` planes end within `len` elements.
    fn check(self, planes: usize, len: usize) {
        let Self { start, stride, count } = self;
        let end = start + (planes - 1) * stride + count * LANES;
        assert!(
            end <= len,
            "{planes} planes of {count} pixels from {start} on, {stride} apart, end at {end} of {len}"
        );
    }
}

/// Pixels of the I x I planes, to be read.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a, const I: usize> {
    first: *const f32,
    stride: usize,
    all: PhantomData<&'a [f32]>,
}

impl<'a, const I: usize> Planes<'a, I> {
    /// Within bounds or a panic.
    pub(super) fn new(all: &'a [f32], extent: Extent) -> Self {
        extent.check(I * I, all.len());
        Self {
            first: all[extent.start..].as_ptr(),
            stride: extent.stride,
            all: PhantomData,
        }
    }

    /// Pixel `index` of the plane of `t = I i + j`.
    ///
    /// # Safety
    /// `i < I`, `j < I`, and `index` is less than the extent's count.
    #[inline(always)]
    pub(super) unsafe fn pixel(self, i: usize, j: usize, index: usize) -> &'a Pixel {
        // SAFETY: `new` has checked all of them.
        unsafe { &*self.first.add((I * i + j) * self.stride + index * LANES).cast() }
    }

    /// Fetches pixel `index` of all planes, if it exists.
    #[inline(always)]
    pub(super) fn fetch(self, index: usize) {
        for t in 0..I * I {
            stream::prefetch(self.first.wrapping_add(t * self.stride + index * LANES));
        }
    }
}

/// Pixels of the I x I planes, to be written.
#[derive(Clone, Copy)]
pub(super) struct PlanesMut<'a, const I: usize> {
    first: *mut f32,
    stride: usize,
    all: PhantomData<&'a mut [f32]>,
}

impl<'a, const I: usize> PlanesMut<'a, I> {
    /// Within bounds or a panic.
    ///
    /// # Safety
    /// As for [`Parts::range`]: for as long as these planes are used, nobody else uses their pixels.
    pub(super) unsafe fn new(all: Parts<'a, f32>, extent: Extent) -> Self {
        extent.check(I * I, all.len());
        Self {
            first: all.address(extent.start).cast_mut(),
            stride: extent.stride,
            all: PhantomData,
        }
    }

    /// Pixel `index` of the plane of `t = I i + j`.
    ///
    /// # Safety
    /// `i < I`, `j < I`, and `index` is less than the extent's count. No two references to one pixel may be alive at
    /// the same time.
    #[inline(always)]
    pub(super) unsafe fn pixel(self, i: usize, j: usize, index: usize) -> &'a mut Pixel {
        // SAFETY: `new` has checked all of them.
        unsafe { &mut *self.first.add((I * i + j) * self.stride + index * LANES).cast() }
    }

    /// Fetches pixel `index` of all planes to be written, if it exists.
    #[inline(always)]
    pub(super) fn fetch_to_write(self, index: usize) {
        for t in 0..I * I {
            stream::prefetch_to_write(self.first.wrapping_add(t * self.stride + index * LANES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four planes of three pixels, 50 elements apart, from element 7 on: the last element is number 7 + 3 x 50 + 48 - 1.
    const EXTENT: Extent = Extent {
        start: 7,
        stride: 50,
        count: 3,
    };
    const END: usize = 205;

    #[test]
    fn pixels_lie_where_the_extent_says() {
        let all: Vec<f32> = (0..END).map(|i| i as f32).collect();
        let planes = Planes::<'_, 2>::new(&all, EXTENT);
        let mut copy = vec![0.0; END];
        // SAFETY: nobody else uses the copy until the loop has ended.
        let to = unsafe { PlanesMut::<'_, 2>::new(Parts::new(&mut copy), EXTENT) };
        let places = [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 2)];
        for (i, j, index) in places {
            // SAFETY: inside the extent, and each pixel is written once.
            unsafe { *to.pixel(i, j, index) = *planes.pixel(i, j, index) };
        }
        for (i, j, index) in places {
            let at = 7 + (2 * i + j) * 50 + index * LANES;
            assert_eq!(copy[at..at + LANES], all[at..at + LANES]);
        }
        assert_eq!(copy.iter().filter(|&&x| x != 0.0).count(), places.len() * LANES);
    }

    #[test]
    #[should_panic(expected = "end at 205 of 204")]
    fn planes_that_end_behind_the_slice_are_refused() {
        Planes::<'_, 2>::new(&vec![0.0; END - 1], EXTENT);
    }

    #[test]
    #[should_panic(expected = "end at 205 of 204")]
    fn planes_to_be_written_that_end_behind_the_slice_are_refused() {
        // SAFETY: nobody else uses it.
        unsafe { PlanesMut::<'_, 2>::new(Parts::new(&mut vec![0.0; END - 1]), EXTENT) };
    }
}
