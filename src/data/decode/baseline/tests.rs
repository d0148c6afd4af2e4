use super::*;
use crate::data::decode::{DecodeError, Decoder, Window};
use crate::data::preprocess::Exif;
use crate::data::testing::{between, fresh_seed, picture, stream};
use crate::rng::Stream;
use turbojpeg::raw;

/// How an image is compressed.
#[derive(Debug, Clone, Copy)]
struct Kind {
    subsampling: raw::TJSAMP,
    quality: usize,
    optimised: bool,
    /// Blocks between restart markers, 0 for none.
    restart: usize,
}

const OURS: [raw::TJSAMP; 4] = [
    raw::TJSAMP_TJSAMP_444,
    raw::TJSAMP_TJSAMP_422,
    raw::TJSAMP_TJSAMP_420,
    raw::TJSAMP_TJSAMP_GRAY,
];

const OTHERS: [raw::TJSAMP; 4] = [
    raw::TJSAMP_TJSAMP_440,
    raw::TJSAMP_TJSAMP_411,
    raw::TJSAMP_TJSAMP_441,
    raw::TJSAMP_TJSAMP_444,
];

impl Kind {
    fn random(stream: &mut Stream, subsamplings: &[raw::TJSAMP]) -> Self {
        let some = |stream: &mut Stream, from, to| match between(stream, 0, 1) {
            0 => 0,
            _ => between(stream, from, to),
        };
        Self {
            subsampling: subsamplings[between(stream, 0, subsamplings.len() - 1)],
            quality: between(stream, 1, 100),
            optimised: between(stream, 0, 1) == 1,
            restart: some(stream, 1, 20),
        }
    }
}

/// Compresses RGB pixels.
fn jpeg(pixels: &[u8], width: usize, height: usize, kind: Kind) -> Vec<u8> {
    assert_eq!(pixels.len(), 3 * width * height);
    let (mut bytes, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: the instance and the buffer that the library allocates are used here only, and freed; the pixels are as
    // many as the sizes say.
    unsafe {
        let instance = raw::tj3Init(raw::TJINIT_TJINIT_COMPRESS as i32);
        for (parameter, value) in [
            (raw::TJPARAM_TJPARAM_SUBSAMP, kind.subsampling as usize),
            (raw::TJPARAM_TJPARAM_QUALITY, kind.quality),
            (raw::TJPARAM_TJPARAM_OPTIMIZE, usize::from(kind.optimised)),
            (raw::TJPARAM_TJPARAM_RESTARTBLOCKS, kind.restart),
        ] {
            assert_eq!(raw::tj3Set(instance, parameter as i32, value as i32), 0);
        }
        let (width, height) = (width as i32, height as i32);
        let format = raw::TJPF_TJPF_RGB;
        let status = raw::tj3Compress8(
            instance,
            pixels.as_ptr(),
            width,
            0,
            height,
            format,
            &mut bytes,
            &mut len,
        );
        assert_eq!(status, 0, "{kind:?}");
        let jpeg = std::slice::from_raw_parts(bytes, len as usize).to_vec();
        raw::tj3Free(bytes.cast());
        raw::tj3Destroy(instance);
        jpeg
    }
}

/// Waves and noise, or noise alone, which has the largest coefficients.
fn pixels(stream: &mut Stream, width: usize, height: usize) -> Vec<u8> {
    match between(stream, 0, 2) {
        0 => (0..3 * width * height)
            .map(|_| [0, 255, stream.next_u32() as u8][stream.next_u32() as usize % 3])
            .collect(),
        _ => picture(stream, width, height),
    }
}

fn region(stream: &mut Stream, width: usize, height: usize) -> Region {
    let (x, y) = (between(stream, 0, width - 1), between(stream, 0, height - 1));
    Region {
        x,
        y,
        width: between(stream, 1, width - x),
        height: between(stream, 1, height - y),
    }
}

/// What a decoder makes of a window: its place, the warning, and the pixels that were wanted.
fn decode(decoder: &mut Decoder, bytes: &[u8], wanted: Region) -> Result<(Window, Vec<u8>), DecodeError> {
    let mut rgb = Vec::new();
    let image = decoder.open(bytes)?;
    let window = decoder.decode_region(image, wanted, &mut rgb)?;
    let pixels = wanted_of(&rgb, window.region, wanted);
    Ok((window, pixels))
}

fn wanted_of(rgb: &[u8], window: Region, wanted: Region) -> Vec<u8> {
    (wanted.y..wanted.y + wanted.height)
        .flat_map(|y| {
            let start = 3 * ((y - window.y) * window.width + wanted.x - window.x);
            &rgb[start..start + 3 * wanted.width]
        })
        .copied()
        .collect()
}

fn library() -> Decoder {
    Decoder::with_library(Exif::Ignore)
}

/// Whether we decode it ourselves.
fn is_ours(baseline: &mut Baseline, bytes: &[u8], wanted: Region) -> bool {
    Jpeg::open(bytes).is_some_and(|jpeg| {
        let (width, height) = jpeg.size();
        wanted.x + wanted.width <= width
            && wanted.y + wanted.height <= height
            && baseline.decode(&jpeg, wanted, &mut Vec::new()).is_some()
    })
}

#[test]
fn coefficients_come_in_zigzag_order() {
    let places: Vec<_> = (0..64).map(entropy::place).collect();
    // Figure A.6, by 16 times the row and the column.
    assert_eq!(places[..10], [0, 1, 16, 32, 17, 2, 3, 18, 33, 48]);
    assert_eq!(places[60..], [5 * 16 + 7, 6 * 16 + 7, 7 * 16 + 6, 7 * 16 + 7]);
    assert_eq!(places.iter().collect::<std::collections::HashSet<_>>().len(), 64);
}

#[test]
fn ordinary_images_have_the_librarys_bits_in_every_window() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let (mut ours, mut baseline) = (Decoder::new(), Baseline::default());
    for case in 0..400 {
        let kind = Kind::random(&mut stream, &OURS);
        let (width, height) = match case % 8 {
            0 => (between(&mut stream, 1, 400), between(&mut stream, 1, 300)),
            _ => (between(&mut stream, 1, 70), between(&mut stream, 1, 70)),
        };
        let pixels = pixels(&mut stream, width, height);
        let bytes = jpeg(&pixels, width, height, kind);
        for window in 0..12 {
            let wanted = match window {
                0 => Region::whole(width, height),
                _ => region(&mut stream, width, height),
            };
            let what = format!("seed {seed}, case {case}: {width} x {height} {kind:?} {wanted:?}");
            assert!(
                is_ours(&mut baseline, &bytes, wanted) || width <= 4,
                "declined: {what}"
            );
            let expected = decode(&mut library(), &bytes, wanted).expect("a good JPEG");
            let found = decode(&mut ours, &bytes, wanted).expect("a good JPEG");
            assert_eq!(found.0, expected.0, "{what}");
            assert!(found.1 == expected.1, "{what}");
        }
    }
}

/// Tables that no encoder writes make coefficients that no picture has: sums wrap, and what they give is clamped.
#[test]
fn absurd_quantisers_give_the_librarys_bits() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut baseline = Baseline::default();
    for case in 0..300 {
        let kind = Kind::random(&mut stream, &OURS);
        let (width, height) = (between(&mut stream, 5, 70), between(&mut stream, 1, 70));
        let mut pixels = pixels(&mut stream, width, height);
        if case % 3 == 0 {
            // Blocks without AC coefficients.
            pixels
                .as_chunks_mut::<3>()
                .0
                .fill([between(&mut stream, 0, 255) as u8; 3]);
        }
        let good = jpeg(&pixels, width, height, kind);
        // Every table in words of 16 bits, with a few elements changed.
        let mut bytes = Vec::new();
        let mut rest = &good[..];
        while let Some(at) = rest.windows(4).position(|marker| marker == [0xFF, 0xDB, 0, 67]) {
            bytes.extend_from_slice(&rest[..at]);
            bytes.extend_from_slice(&[0xFF, 0xDB, 0, 131, 0x10 | rest[at + 4]]);
            for &element in &rest[at + 5..at + 69] {
                let value = match between(&mut stream, 0, 3) {
                    0 => stream.next_u32() as u16,
                    1 => 255 * u16::from(element),
                    _ => u16::from(element),
                };
                bytes.extend_from_slice(&value.to_be_bytes());
            }
            rest = &rest[at + 69..];
        }
        bytes.extend_from_slice(rest);
        let wanted = region(&mut stream, width, height);
        let what = format!("seed {seed}, case {case}: {width} x {height} {kind:?} {wanted:?}");
        assert!(is_ours(&mut baseline, &bytes, wanted), "declined: {what}");
        let expected = decode(&mut library(), &bytes, wanted);
        assert!(decode(&mut Decoder::new(), &bytes, wanted) == expected, "{what}");
    }
}

#[test]
fn other_images_are_left_to_the_library() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut baseline = Baseline::default();
    for case in 0..80 {
        let mut kind = Kind::random(&mut stream, &OTHERS);
        let (width, height) = (between(&mut stream, 1, 70), between(&mut stream, 1, 70));
        let pixels = pixels(&mut stream, width, height);
        let mut bytes = jpeg(&pixels, width, height, kind);
        if kind.subsampling == raw::TJSAMP_TJSAMP_444 {
            // Behind what is said of Adobe's colours, 4:4:4 is RGB; JFIF would contradict it.
            kind.restart = 0;
            bytes = jpeg(&pixels, width, height, kind);
            let (start, end) = (2, 2 + 2 + 16);
            assert_eq!(bytes[start..start + 2], [0xFF, 0xE0]);
            bytes.splice(start..end, *b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0\0");
        }
        let wanted = region(&mut stream, width, height);
        let what = format!("seed {seed}, case {case}: {width} x {height} {kind:?} {wanted:?}");
        assert!(!is_ours(&mut baseline, &bytes, wanted), "taken: {what}");
        let expected = decode(&mut library(), &bytes, wanted).expect("a good JPEG");
        assert!(
            decode(&mut Decoder::new(), &bytes, wanted) == Ok(expected),
            "{what}"
        );
    }
}

#[test]
fn the_golden_images_have_the_librarys_bits() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let (mut ours, mut baseline, mut taken) = (Decoder::new(), Baseline::default(), 0);
    for entry in std::fs::read_dir(folder).expect("the golden images") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "jpg") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("a readable file");
        let header = ours.header(&bytes).expect("a good JPEG");
        let whole = Region::whole(header.width, header.height);
        taken += usize::from(is_ours(&mut baseline, &bytes, whole));
        assert!(
            decode(&mut ours, &bytes, whole) == decode(&mut library(), &bytes, whole),
            "{}",
            path.display()
        );
    }
    assert!(taken >= 5, "only {taken} of the golden images are decoded here");
}

/// Bits flipped, bytes changed, ends cut off: pixels, warning and error are the library's.
#[test]
fn damage_is_treated_as_the_library_treats_it() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let (mut ours, mut baseline) = (Decoder::new(), Baseline::default());
    let (mut odd, mut taken) = (0, 0);
    for case in 0..400 {
        let kind = Kind::random(&mut stream, &OURS);
        let (width, height) = (between(&mut stream, 5, 90), between(&mut stream, 1, 90));
        let pixels = pixels(&mut stream, width, height);
        let good = jpeg(&pixels, width, height, kind);
        let scan = good
            .windows(2)
            .position(|marker| marker == [0xFF, 0xDA])
            .expect("a scan")
            + 2;
        for damage in 0..20 {
            let mut bad = good.clone();
            // Mostly in the compressed data.
            let from = if between(&mut stream, 0, 4) == 0 { 2 } else { scan };
            for _ in 0..between(&mut stream, 1, 3) {
                let at = between(&mut stream, from, bad.len() - 1);
                match between(&mut stream, 0, 5) {
                    0 => bad[at] = stream.next_u32() as u8,
                    1 => bad[at] = 0xFF,
                    2 => bad.truncate(at + 1),
                    3 => drop(bad.remove(at)),
                    4 => bad.insert(at, [0, 0xD0, 0xD9, 0xFF][between(&mut stream, 0, 3)]),
                    _ => bad[at] ^= 1 << between(&mut stream, 0, 7),
                }
                if bad.len() <= from {
                    break;
                }
            }
            let wanted = region(&mut stream, width, height);
            let expected = decode(&mut library(), &bad, wanted);
            odd += usize::from(!matches!(&expected, Ok((Window { warning: None, .. }, _))));
            taken += usize::from(is_ours(&mut baseline, &bad, wanted));
            assert!(
                decode(&mut ours, &bad, wanted) == expected,
                "seed {seed}, case {case}, {damage}: {width} x {height} {kind:?} {wanted:?}"
            );
        }
    }
    assert!(
        odd > 1000 && taken > 1000,
        "seed {seed}: {odd} are odd, {taken} are ours"
    );
}
