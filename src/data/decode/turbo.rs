//! JPEG through libjpeg-turbo's TurboJPEG 3 interface, which can decode a window: outside it nothing is transformed,
//! upsampled or converted, and below it nothing is read.

use super::{DecodeError, Region, Window, cmyk};
use std::ffi::{CStr, c_int};
use turbojpeg::raw;

/// Source pixels that smooth chroma upsampling looks at on each side of a pixel.
const UPSAMPLING_REACH: usize = 2;

/// More scans than any real progressive file has; a small file with thousands of them takes minutes.
const MAX_SCANS: c_int = 500;

/// A decompressor that has read the header of `bytes`.
///
/// It serves one image. libjpeg keeps quantisation and Huffman tables from one image to the next, and a file that
/// lacks its own would be decoded with those of whatever the same thread decoded before.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    handle: Handle,
    width: usize,
    height: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the header.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut handle = Handle::new()?;
        handle.read_header(bytes)?;
        Ok(Self {
            bytes,
            width: handle.dimension(raw::TJPARAM_TJPARAM_JPEGWIDTH)?,
            height: handle.dimension(raw::TJPARAM_TJPARAM_JPEGHEIGHT)?,
            handle,
        })
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Decodes the smallest window around `wanted` whose inside equals the full decode. The caller has checked that
    /// `wanted` lies inside the image and that the image is not too large.
    pub(super) fn decode(
        mut self,
        wanted: Region,
        rgb: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Result<Window, DecodeError> {
        let whole = Region::whole(self.width, self.height);
        let region = match self.handle.column_alignment() {
            Some(alignment) => grow(wanted, self.width, self.height, alignment),
            None => whole,
        };
        if region != whole {
            self.handle.set_region(region)?;
        }
        let pixels = region.width * region.height;
        rgb.resize(3 * pixels, 0);
        let warning = match self.handle.get(raw::TJPARAM_TJPARAM_COLORSPACE) as raw::TJCS {
            raw::TJCS_TJCS_CMYK | raw::TJCS_TJCS_YCCK => {
                scratch.resize(4 * pixels, 0);
                let warning = self
                    .handle
                    .decompress(self.bytes, region, Samples::Cmyk, scratch)?;
                cmyk::to_rgb(scratch, rgb);
                warning
            }
            _ => self.handle.decompress(self.bytes, region, Samples::Rgb, rgb)?,
        };
        Ok(Window { region, warning })
    }
}

/// `wanted` and the reach of upsampling on every side, its left edge moved to a multiple of `alignment`, inside the
/// image.
pub(super) fn grow(wanted: Region, width: usize, height: usize, alignment: usize) -> Region {
    let x = wanted.x.saturating_sub(UPSAMPLING_REACH) / alignment * alignment;
    let y = wanted.y.saturating_sub(UPSAMPLING_REACH);
    let right = (wanted.x + wanted.width + UPSAMPLING_REACH).min(width);
    let bottom = (wanted.y + wanted.height + UPSAMPLING_REACH).min(height);
    Region {
        x,
        y,
        width: right - x,
        height: bottom - y,
    }
}

/// What the library writes for each pixel.
#[derive(Clone, Copy)]
enum Samples {
    Rgb,
    Cmyk,
}

impl Samples {
    fn count(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }

    fn pixel_format(self) -> raw::TJPF {
        match self {
            Self::Rgb => raw::TJPF_TJPF_RGB,
            Self::Cmyk => raw::TJPF_TJPF_CMYK,
        }
    }
}

/// An owned TurboJPEG instance.
#[derive(Debug)]
struct Handle(std::ptr::NonNull<std::ffi::c_void>);

impl Handle {
    fn new() -> Result<Self, DecodeError> {
        // SAFETY: takes no pointer; returns a new instance or null.
        let instance = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let mut handle = std::ptr::NonNull::new(instance)
            .map(Self)
            .ok_or_else(|| DecodeError("libjpeg-turbo cannot allocate a decompressor".into()))?;
        handle.set(raw::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS)?;
        handle.set(raw::TJPARAM_TJPARAM_FASTUPSAMPLE, 0)?;
        handle.set(raw::TJPARAM_TJPARAM_FASTDCT, 0)?;
        Ok(handle)
    }

    fn set(&mut self, parameter: raw::TJPARAM, value: c_int) -> Result<(), DecodeError> {
        // SAFETY: the instance is alive for as long as `self` is; no other pointer is passed.
        let status = unsafe { raw::tj3Set(self.0.as_ptr(), parameter as c_int, value) };
        if status == 0 { Ok(()) } else { Err(self.error()) }
    }

    fn get(&mut self, parameter: raw::TJPARAM) -> c_int {
        // SAFETY: as in `set`.
        unsafe { raw::tj3Get(self.0.as_ptr(), parameter as c_int) }
    }

    fn dimension(&mut self, parameter: raw::TJPARAM) -> Result<usize, DecodeError> {
        usize::try_from(self.get(parameter))
            .map_err(|_| DecodeError("expected a JPEG image, found tables without one".into()))
    }

    fn read_header(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        // SAFETY: the library reads at most `bytes.len()` bytes from the pointer and keeps neither beyond the call:
        // `tj3Decompress8` is given its own.
        let status =
            unsafe { raw::tj3DecompressHeader(self.0.as_ptr(), bytes.as_ptr(), bytes.len() as raw::size_t) };
        if status != 0 && self.failed() {
            return Err(self.error());
        }
        Ok(())
    }

    /// The multiple on which a window's left edge must lie (the width of an interleaved unit), or `None` where the
    /// library decodes whole images only: unusual sampling factors, lossless JPEG.
    fn column_alignment(&mut self) -> Option<usize> {
        if self.get(raw::TJPARAM_TJPARAM_LOSSLESS) != 0 {
            return None;
        }
        match self.get(raw::TJPARAM_TJPARAM_SUBSAMP) as raw::TJSAMP {
            raw::TJSAMP_TJSAMP_444 | raw::TJSAMP_TJSAMP_GRAY => Some(8),
            raw::TJSAMP_TJSAMP_440 | raw::TJSAMP_TJSAMP_441 => Some(8),
            raw::TJSAMP_TJSAMP_422 | raw::TJSAMP_TJSAMP_420 => Some(16),
            raw::TJSAMP_TJSAMP_411 => Some(32),
            _ => None,
        }
    }

    /// Restricts the next decompression to a part of the image whose header was read.
    fn set_region(&mut self, region: Region) -> Result<(), DecodeError> {
        let region = raw::tjregion {
            x: region.x as c_int,
            y: region.y as c_int,
            w: region.width as c_int,
            h: region.height as c_int,
        };
        // SAFETY: as in `set`; the region is passed by value. JPEG sides are below 2^16, so the casts keep them.
        let status = unsafe { raw::tj3SetCroppingRegion(self.0.as_ptr(), region) };
        if status == 0 { Ok(()) } else { Err(self.error()) }
    }

    /// Decompresses the region that was set for these same bytes; returns the library's warning, if any.
    fn decompress(
        &mut self,
        bytes: &[u8],
        region: Region,
        samples: Samples,
        out: &mut [u8],
    ) -> Result<Option<String>, DecodeError> {
        let pitch = region.width * samples.count();
        assert_eq!(
            out.len(),
            pitch * region.height,
            "one row of pixels for every row of the region"
        );
        // SAFETY: the library reads at most `bytes.len()` bytes, and writes `region.height` rows of `region.width`
        // pixels, `pitch` bytes apart, which is exactly `out`: the region was derived from the header of the same
        // bytes, and the whole image has that header's size. A pitch is below 2^16 * 4, so the cast keeps it.
        let status = unsafe {
            raw::tj3Decompress8(
                self.0.as_ptr(),
                bytes.as_ptr(),
                bytes.len() as raw::size_t,
                out.as_mut_ptr(),
                pitch as c_int,
                samples.pixel_format(),
            )
        };
        if status == 0 {
            Ok(None)
        } else if self.failed() {
            Err(self.error())
        } else {
            Ok(Some(self.error().0))
        }
    }

    /// Whether the last call that returned an error gave up; otherwise it only warned and did its work.
    fn failed(&mut self) -> bool {
        // SAFETY: as in `set`.
        unsafe { raw::tj3GetErrorCode(self.0.as_ptr()) != raw::TJERR_TJERR_WARNING as c_int }
    }

    fn error(&mut self) -> DecodeError {
        // SAFETY: the library returns a string that ends in zero and that stays as it is until the next call on this
        // instance, which `&mut self` rules out while it is read.
        let text = unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.0.as_ptr())) };
        DecodeError(text.to_string_lossy().replace('\n', " "))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the instance is owned and not used again.
        unsafe { raw::tj3Destroy(self.0.as_ptr()) }
    }
}
