use super::*;
use crate::data::testing::{between, fresh_seed, picture, png, stream};
use ::png::ColorType;

fn decode(bytes: &[u8]) -> Result<(Decoded, Vec<u8>), DecodeError> {
    let mut rgb = Vec::new();
    Decoder::new()
        .decode(bytes, &mut rgb)
        .map(|decoded| (decoded, rgb))
}

#[cfg(feature = "turbojpeg")]
fn decode_region(
    decoder: &mut Decoder,
    bytes: &[u8],
    wanted: Region,
    rgb: &mut Vec<u8>,
) -> Result<Window, DecodeError> {
    let opened = decoder.open(bytes)?;
    decoder.decode_region(opened, wanted, rgb)
}

#[test]
fn png_of_every_colour_type_becomes_rgb() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let (width, height) = (between(&mut stream, 1, 40), between(&mut stream, 1, 40));
    for color in [
        ColorType::Rgb,
        ColorType::Rgba,
        ColorType::Grayscale,
        ColorType::GrayscaleAlpha,
    ] {
        let samples = color.samples();
        let pixels: Vec<u8> = (0..samples * width * height)
            .map(|_| stream.next_u32() as u8)
            .collect();
        let (decoded, rgb) = decode(&png(&pixels, width, height, color)).expect("a good PNG");
        assert_eq!(
            (decoded.width, decoded.height, decoded.warning),
            (width, height, None),
            "seed {seed}"
        );
        let expected: Vec<u8> = pixels
            .chunks_exact(samples)
            .flat_map(|pixel| match samples {
                1 | 2 => [pixel[0]; 3],
                _ => [pixel[0], pixel[1], pixel[2]],
            })
            .collect();
        assert_eq!(rgb, expected, "seed {seed}, {color:?}");
    }
}

#[test]
fn png_palettes_are_looked_up_and_deep_samples_keep_the_high_byte() {
    let encode = |color, depth, palette: &[u8], data: &[u8]| {
        let mut bytes = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if !palette.is_empty() {
            encoder.set_palette(palette);
            encoder.set_trns(vec![0u8, 128]);
        }
        let mut writer = encoder.write_header().expect("a valid header");
        writer.write_image_data(data).expect("two pixels");
        writer.finish().expect("a vector can be written to");
        bytes
    };
    let indexed = encode(
        ColorType::Indexed,
        ::png::BitDepth::Eight,
        &[1, 2, 3, 250, 251, 252],
        &[1, 0],
    );
    assert_eq!(decode(&indexed).expect("a good PNG").1, [250, 251, 252, 1, 2, 3]);
    let deep = encode(
        ColorType::Grayscale,
        ::png::BitDepth::Sixteen,
        &[],
        &[0x12, 0xFF, 0xFE, 0x00],
    );
    assert_eq!(
        decode(&deep).expect("a good PNG").1,
        [0x12, 0x12, 0x12, 0xFE, 0xFE, 0xFE]
    );
    let bits = encode(ColorType::Grayscale, ::png::BitDepth::One, &[], &[0b0100_0000]);
    assert_eq!(decode(&bits).expect("a good PNG").1, [0, 0, 0, 255, 255, 255]);
}

#[test]
fn what_is_no_image_is_refused_with_what_it_is() {
    for (bytes, expected) in [
        (&b""[..], "an empty file"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "WebP"),
        (b"GIF89a", "GIF"),
        (b"hello", "bytes [68, 65, 6c, 6c]"),
        (b"\xFF\xD8\xFF", ""),
        (b"\xFF\xD8\xFF\xD9", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
    ] {
        let error = decode(bytes).expect_err("not an image");
        assert!(error.0.contains(expected), "{bytes:?}: {error}");
    }
}

#[test]
fn a_huge_image_is_refused_by_its_header() {
    let mut bytes = png(&[0; 3], 1, 1, ColorType::Rgb);
    let (width, rest) = (&65_500u32.to_be_bytes(), 16);
    bytes[rest..rest + 4].copy_from_slice(width);
    bytes[rest + 4..rest + 8].copy_from_slice(width);
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode(&bytes).expect_err("4 gigapixels");
    assert!(error.0.contains("65500 x 65500"), "{error}");
}

/// PNG's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Found by `tools/fuzz jpeg`: the library takes a palette for whole colours.
#[test]
fn a_png_palette_of_no_whole_colours_is_refused() {
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        let (len, crc) = (data.len() as u32, crc32(&body));
        [&len.to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
    };
    let with = |palette: &[u8]| {
        [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0]),
            chunk(b"PLTE", palette),
            chunk(b"IDAT", b"\x78\x9c\x63\x60\0\0\0\x02\0\x01"),
            chunk(b"IEND", b""),
        ]
        .concat()
    };
    assert_eq!(decode(&with(&[7, 8, 9])).expect("one colour").1, [7, 8, 9]);
    for len in [0, 1, 2, 4, 771] {
        let error = decode(&with(&vec![1; len])).expect_err("no palette");
        assert!(error.0.contains("PNG"), "{len}: {error}");
    }
}

#[test]
fn a_damaged_png_is_an_error_not_a_panic() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let pixels = picture(&mut stream, 30, 20);
    let good = png(&pixels, 30, 20, ColorType::Rgb);
    for _ in 0..300 {
        let mut bad = good.clone();
        let at = between(&mut stream, 8, bad.len() - 1);
        bad[at] ^= 1 << (stream.next_u32() % 8);
        bad.truncate(between(&mut stream, at, bad.len()));
        let _ = decode(&bad);
    }
    assert!(
        decode(&good[..good.len() / 2]).is_err(),
        "seed {seed}: half a PNG decoded"
    );
}

#[cfg(feature = "turbojpeg")]
mod jpeg {
    use super::*;
    use crate::data::testing::{JpegKind, jpeg};
    use turbojpeg::{PixelFormat, Subsamp};

    const SUBSAMPLINGS: [Subsamp; 7] = [
        Subsamp::None,
        Subsamp::Sub2x1,
        Subsamp::Sub2x2,
        Subsamp::Gray,
        Subsamp::Sub1x2,
        Subsamp::Sub4x1,
        Subsamp::Sub1x4,
    ];

    fn rgb_kind(subsampling: Subsamp, progressive: bool) -> JpegKind {
        JpegKind {
            subsampling,
            progressive,
            pixels: PixelFormat::RGB,
        }
    }

    /// A random region of at least one pixel.
    fn region(stream: &mut crate::rng::Stream, width: usize, height: usize) -> Region {
        let (x, y) = (between(stream, 0, width - 1), between(stream, 0, height - 1));
        Region {
            x,
            y,
            width: between(stream, 1, width - x),
            height: between(stream, 1, height - y),
        }
    }

    /// The pixels of `wanted` out of a window.
    fn cut(pixels: &[u8], window: Region, wanted: Region) -> Vec<u8> {
        (wanted.y..wanted.y + wanted.height)
            .flat_map(|y| {
                let start = ((y - window.y) * window.width + wanted.x - window.x) * 3;
                &pixels[start..start + 3 * wanted.width]
            })
            .copied()
            .collect()
    }

    #[test]
    fn a_window_equals_the_full_decode_to_the_bit() {
        let seed = fresh_seed();
        let mut stream = stream(seed);
        let (mut decoder, mut whole, mut part) = (Decoder::new(), Vec::new(), Vec::new());
        for case in 0..84 {
            let kind = rgb_kind(SUBSAMPLINGS[case % 7], case / 7 % 2 == 1);
            let (width, height) = (between(&mut stream, 1, 150), between(&mut stream, 1, 130));
            let pixels = picture(&mut stream, width, height);
            let bytes = jpeg(&pixels, width, height, kind);
            let decoded = decoder.decode(&bytes, &mut whole).expect("a good JPEG");
            assert_eq!(
                (decoded.width, decoded.height, decoded.warning),
                (width, height, None)
            );
            for _ in 0..20 {
                let wanted = region(&mut stream, width, height);
                let window = decode_region(&mut decoder, &bytes, wanted, &mut part).expect("a good JPEG");
                assert_eq!(part.len(), 3 * window.region.width * window.region.height);
                assert!(
                    cut(&part, window.region, wanted) == cut(&whole, Region::whole(width, height), wanted),
                    "seed {seed}, case {case}: {width} x {height} {kind:?} {wanted:?} in {:?}",
                    window.region
                );
            }
        }
    }

    #[test]
    fn a_window_is_smaller_than_the_image() {
        let mut stream = stream(1);
        let bytes = jpeg(
            &picture(&mut stream, 500, 375),
            500,
            375,
            rgb_kind(Subsamp::Sub2x2, false),
        );
        let wanted = Region {
            x: 100,
            y: 50,
            width: 224,
            height: 224,
        };
        let window =
            decode_region(&mut Decoder::new(), &bytes, wanted, &mut Vec::new()).expect("a good JPEG");
        assert_eq!(
            window.region,
            Region {
                x: 96,
                y: 48,
                width: 230,
                height: 228
            }
        );
    }

    #[test]
    fn a_decoded_jpeg_is_close_to_its_pixels() {
        let mut stream = stream(2);
        let pixels = vec![[200u8, 40, 90]; 33 * 21].concat();
        for subsampling in SUBSAMPLINGS {
            if subsampling == Subsamp::Gray {
                continue;
            }
            let (_, rgb) = decode(&jpeg(&pixels, 33, 21, rgb_kind(subsampling, false))).expect("a good JPEG");
            assert!(
                rgb.iter().zip(&pixels).all(|(a, b)| a.abs_diff(*b) <= 3),
                "{subsampling:?}"
            );
        }
        let grey = vec![between(&mut stream, 0, 255) as u8; 3 * 33 * 21];
        let (_, rgb) = decode(&jpeg(&grey, 33, 21, rgb_kind(Subsamp::Gray, true))).expect("a good JPEG");
        assert!(rgb.iter().zip(&grey).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    #[test]
    fn cmyk_and_ycck_become_rgb_in_windows_too() {
        let seed = fresh_seed();
        let mut stream = stream(seed);
        let (width, height) = (67, 45);
        // As Adobe stores it: 255 is no ink, so full yellow at half black is [255, 255, 0, 128].
        let pixels = vec![[255u8, 255, 0, 128]; width * height].concat();
        for (subsampling, progressive) in [(Subsamp::None, false), (Subsamp::Sub2x2, true)] {
            let kind = JpegKind {
                subsampling,
                progressive,
                pixels: PixelFormat::CMYK,
            };
            let bytes = jpeg(&pixels, width, height, kind);
            let (_, rgb) = decode(&bytes).expect("a good JPEG");
            for pixel in rgb.chunks_exact(3) {
                assert!(
                    pixel[0].abs_diff(128) <= 2 && pixel[1].abs_diff(128) <= 2 && pixel[2] <= 2,
                    "{pixel:?}"
                );
            }
            let wanted = region(&mut stream, width, height);
            let mut part = Vec::new();
            let window = decode_region(&mut Decoder::new(), &bytes, wanted, &mut part).expect("a good JPEG");
            let whole = cut(&rgb, Region::whole(width, height), wanted);
            assert!(
                cut(&part, window.region, wanted) == whole,
                "seed {seed}: {kind:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn a_png_that_poses_as_a_jpeg_and_the_reverse_decode_by_content() {
        let mut stream = stream(3);
        let pixels = picture(&mut stream, 9, 7);
        let mut decoder = Decoder::new();
        let header =
            |decoder: &mut Decoder, bytes: &[u8]| decoder.header(bytes).expect("a good image").format;
        assert_eq!(
            header(&mut decoder, &png(&pixels, 9, 7, ColorType::Rgb)),
            Format::Png
        );
        let bytes = jpeg(&pixels, 9, 7, rgb_kind(Subsamp::None, false));
        assert_eq!(header(&mut decoder, &bytes), Format::Jpeg);
    }

    #[test]
    fn a_truncated_jpeg_decodes_in_part_with_a_warning() {
        let seed = fresh_seed();
        let mut stream = stream(seed);
        let pixels = picture(&mut stream, 160, 120);
        for progressive in [false, true] {
            let bytes = jpeg(&pixels, 160, 120, rgb_kind(Subsamp::Sub2x2, progressive));
            let (_, whole) = decode(&bytes).expect("a good JPEG");
            let (decoded, part) = decode(&bytes[..bytes.len() * 2 / 3]).expect("two thirds of a JPEG");
            assert!(decoded.warning.is_some(), "seed {seed}: no warning");
            let top = 160 * 3 * 40;
            assert!(
                progressive || part[..top] == whole[..top],
                "seed {seed}: the top differs"
            );
        }
    }

    #[test]
    fn a_huge_jpeg_is_refused_by_its_header() {
        let mut bytes = jpeg(&[7; 3 * 64], 8, 8, rgb_kind(Subsamp::None, false));
        let frame = bytes
            .windows(2)
            .position(|pair| pair == [0xFF, 0xC0])
            .expect("a baseline frame");
        for side in [frame + 5, frame + 7] {
            bytes[side..side + 2].copy_from_slice(&65_500u16.to_be_bytes());
        }
        let error = decode(&bytes).expect_err("4 gigapixels");
        assert!(error.0.contains("65500 x 65500"), "{error}");
    }

    #[test]
    fn damaged_jpegs_never_panic_and_leave_the_decoder_usable() {
        let seed = fresh_seed();
        let mut stream = stream(seed);
        let pixels = picture(&mut stream, 60, 44);
        let mut decoder = Decoder::new();
        let mut rgb = Vec::new();
        for case in 0..400 {
            let good = jpeg(&pixels, 60, 44, rgb_kind(SUBSAMPLINGS[case % 7], case % 2 == 0));
            let (_, expected) = decode(&good).expect("a good JPEG");
            let mut bad = good.clone();
            for _ in 0..between(&mut stream, 1, 6) {
                let at = between(&mut stream, 2, bad.len() - 1);
                bad[at] = stream.next_u32() as u8;
            }
            let _ = Decoder::with_exif(Exif::Apply).decode(&bad, &mut rgb);
            let _ = decoder.decode(&bad, &mut rgb);
            let wanted = region(&mut stream, 60, 44);
            let _ = decode_region(&mut decoder, &bad, wanted, &mut rgb);
            decoder.decode(&good, &mut rgb).expect("a good JPEG");
            assert!(
                rgb == expected,
                "seed {seed}, case {case}: a bad image changed the next one"
            );
        }
    }
}

#[test]
fn orientations_turn_as_exif_says_and_windows_with_them() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let (width, height) = (between(&mut stream, 1, 30), between(&mut stream, 1, 30));
    let stored = picture(&mut stream, width, height);
    let at = |x: usize, y: usize| &stored[3 * (y * width + x)..][..3];
    let whole = Region::whole(width, height);
    for tag in 0..=9 {
        let orientation = Orientation::of_tag(tag);
        let mut upright = Vec::new();
        orientation.apply(&stored, whole, &mut upright);
        let (columns, rows) = orientation.size((width, height));
        let (right, bottom) = (width - 1, height - 1);
        for (i, pixel) in upright.chunks_exact(3).enumerate() {
            let (x, y) = (i % columns, i / columns);
            // EXIF 2.3, table 6: where row 0 and column 0 of what is stored are seen.
            let expected = match tag {
                2 => at(right - x, y),
                3 => at(right - x, bottom - y),
                4 => at(x, bottom - y),
                5 => at(y, x),
                6 => at(y, bottom - x),
                7 => at(right - y, bottom - x),
                8 => at(right - y, x),
                _ => at(x, y),
            };
            assert_eq!(pixel, expected, "seed {seed}, orientation {tag}, {x}, {y}");
        }
        let (x, y) = (
            between(&mut stream, 0, columns - 1),
            between(&mut stream, 0, rows - 1),
        );
        let region = Region {
            x,
            y,
            width: between(&mut stream, 1, columns - x),
            height: between(&mut stream, 1, rows - y),
        };
        let inside = orientation.to_stored(region, (width, height));
        assert_eq!(
            orientation.to_upright(inside, (width, height)),
            region,
            "seed {seed}, orientation {tag}"
        );
        let part: Vec<u8> = (inside.y..inside.y + inside.height)
            .flat_map(|y| (inside.x..inside.x + inside.width).flat_map(move |x| at(x, y)))
            .copied()
            .collect();
        let mut turned = Vec::new();
        orientation.apply(&part, inside, &mut turned);
        let expected: Vec<u8> = (y..y + region.height)
            .flat_map(|y| &upright[3 * (y * columns + x)..][..3 * region.width])
            .copied()
            .collect();
        assert!(turned == expected, "seed {seed}, orientation {tag}, {region:?}");
    }
}

#[test]
fn the_orientation_of_a_file_is_found_and_written() {
    let pixels = [7; 3 * 8];
    let plain = png(&pixels, 4, 2, ColorType::Rgb);
    assert_eq!(exif_orientation(&plain), 1);
    assert_eq!(exif_orientation(b"no image"), 1);
    for tag in 1..=8 {
        let jpeg = [b"\xFF\xD8", &exif_segment(tag)[..], b"\xFF\xD9"].concat();
        assert_eq!(exif_orientation(&jpeg), tag);
    }
    let damaged = [b"\xFF\xD8", &exif_segment(6)[..20], b"\xFF\xD9"].concat();
    assert_eq!(exif_orientation(&damaged), 1);
}

/// WebP and GIF files with random damage: an error or pixels, never a panic.
#[test]
fn damaged_webp_and_gif_files_never_panic() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    // Cut in half, an animation still has its first frame.
    for file in [
        "lossy.webp",
        "lossless.webp",
        "alpha.webp",
        "palette.gif",
        "animated.gif",
        "transparent.gif",
    ] {
        let good = std::fs::read(folder.join(file)).expect("a golden image");
        let (_, expected) = decode(&good).expect("a good image");
        for _ in 0..200 {
            let mut bad = good.clone();
            for _ in 0..between(&mut stream, 1, 4) {
                let at = between(&mut stream, 4, bad.len() - 1);
                bad[at] = stream.next_u32() as u8;
            }
            bad.truncate(between(&mut stream, 12, bad.len()));
            let _ = decode(&bad);
        }
        assert_eq!(
            decode(&good).expect("a good image").1,
            expected,
            "seed {seed}, {file}"
        );
        assert!(
            file == "animated.gif" || decode(&good[..good.len() / 2]).is_err(),
            "half of {file} decoded"
        );
    }
}
