use super::*;
use crate::data::augment::{Place, View};
use crate::data::preprocess::Flip;
use crate::data::resize::rescaled;
use crate::data::testing::{between, fresh_seed, picture, png, stream};
use crate::rng::Stream;
use fast_image_resize as fr;

fn view(short_side: usize, place: Place) -> View {
    View {
        short_side,
        place,
        flip: Flip::Keep,
        colour: [0.0; 3],
    }
}

fn random_view(stream: &mut Stream, crop: usize, largest: usize) -> View {
    let place = Place::Random {
        across: stream.next_u64(),
        down: stream.next_u64(),
    };
    view(between(stream, crop, largest), place)
}

/// The rule, by another program: rescale the whole image, then cut.
fn rescale_then_crop(pixels: &[u8], width: usize, height: usize, view: &View, crop: usize) -> Vec<u8> {
    let (new_width, new_height) = rescaled(width, height, view.short_side);
    let from = fr::images::ImageRef::new(width as u32, height as u32, pixels, fr::PixelType::U8x3);
    let mut to = fr::images::Image::new(new_width as u32, new_height as u32, fr::PixelType::U8x3);
    let options = fr::ResizeOptions::new().resize_alg(fr::ResizeAlg::Convolution(fr::FilterType::Bilinear));
    fr::Resizer::new()
        .resize(&from.expect("a whole image"), &mut to, &options)
        .expect("a size that can be made");
    let (x, y) = view.place.offset((new_width - crop, new_height - crop));
    (y..y + crop)
        .flat_map(|row| &to.buffer()[(row * new_width + x) * 3..][..crop * 3])
        .copied()
        .collect()
}

/// Largest difference. Ours is within half a level of the exact value; one that rounds to eight bits between the
/// passes, as Pillow and this judge do, is within one. So they are never two apart.
fn difference(a: &[u8], b: &[u8]) -> u8 {
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    differences.max().unwrap_or(0)
}

#[test]
fn the_longer_side_is_rounded_down() {
    assert_eq!(rescaled(500, 375, 256), (341, 256));
    assert_eq!(rescaled(375, 500, 256), (256, 341));
    assert_eq!(rescaled(300, 300, 224), (224, 224));
    assert_eq!(rescaled(65_500, 1, 256), (16_768_000, 256));
}

#[test]
fn rendering_is_rescaling_the_whole_image_and_cutting() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut worker = Worker::new();
    for case in 0..150 {
        let (width, height) = (between(&mut stream, 1, 200), between(&mut stream, 1, 200));
        if width.max(height) > 60 * width.min(height) {
            continue;
        }
        let crop = between(&mut stream, 1, 64);
        let view = random_view(&mut stream, crop, 160);
        let pixels = picture(&mut stream, width, height);
        let bytes = png(&pixels, width, height, ::png::ColorType::Rgb);
        let mut out = vec![0; crop * crop * 3];
        let warning = worker
            .render(&bytes, &view, crop, &mut out)
            .expect("a good image");
        assert_eq!(warning, None);
        let largest = difference(&out, &rescale_then_crop(&pixels, width, height, &view, crop));
        assert!(largest <= 1, "seed {seed}, case {case}: off by {largest}");
    }
}

/// Twenty-five crops at round(i * slack / 4), by another program; the bits are those of each crop rendered alone.
#[test]
fn the_grid_of_crops_and_the_whole_image_are_cut_from_one_rescaling() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut worker = Worker::new();
    for _ in 0..5 {
        let (width, height) = (between(&mut stream, 60, 200), between(&mut stream, 60, 200));
        let (crop, short_side) = (between(&mut stream, 8, 40), between(&mut stream, 40, 90));
        let pixels = picture(&mut stream, width, height);
        let bytes = png(&pixels, width, height, ::png::ColorType::Rgb);
        let (columns, rows) = worker.rescaled_size(&bytes, short_side).expect("a good image");
        let mut all = vec![0; rows * columns * 3];
        worker
            .render_whole(&bytes, short_side, &mut all)
            .expect("a good image");
        let grid = (0..25).map(|i| Place::Grid {
            across: i % 5,
            down: i / 5,
        });
        let views: Vec<View> = grid.map(|place| view(short_side, place)).collect();
        let area = crop * crop * 3;
        let mut crops = vec![0; 25 * area];
        worker
            .render_views(&bytes, &views, crop, &mut crops)
            .expect("a good image");
        for (i, (view, found)) in views.iter().zip(crops.chunks(area)).enumerate() {
            let mut alone = vec![0; area];
            worker
                .render(&bytes, view, crop, &mut alone)
                .expect("a good image");
            assert_eq!(found, alone, "seed {seed}, crop {i}");
            let place = |slack: usize, i: usize| (slack as f64 * i as f64 / 4.0).round() as usize;
            let (x, y) = (place(columns - crop, i % 5), place(rows - crop, i / 5));
            let cut: Vec<u8> = (y..y + crop)
                .flat_map(|row| &all[(row * columns + x) * 3..][..crop * 3])
                .copied()
                .collect();
            assert_eq!(found, cut, "seed {seed}, crop {i} of the whole");
            let largest = difference(found, &rescale_then_crop(&pixels, width, height, view, crop));
            assert!(largest <= 1, "seed {seed}, crop {i}: off by {largest}");
        }
    }
}

#[test]
fn extreme_shapes_render() {
    let mut stream = stream(1);
    let mut worker = Worker::new();
    let mut out = vec![0; 224 * 224 * 3];
    for (width, height) in [(1, 1), (1, 3000), (3000, 1), (2, 2), (4000, 3)] {
        let pixels = picture(&mut stream, width, height);
        let bytes = png(&pixels, width, height, ::png::ColorType::Rgb);
        for place in [
            Place::Centre,
            Place::Random {
                across: u64::MAX,
                down: u64::MAX,
            },
        ] {
            for short_side in [224, 256, 65_535] {
                let view = view(short_side, place);
                let rendered = worker.render(&bytes, &view, 224, &mut out);
                assert_eq!(rendered, Ok(None), "{width} x {height}, {view:?}");
            }
        }
    }
}

#[cfg(feature = "turbojpeg")]
#[test]
fn jpeg_windows_render_as_the_whole_image_does() {
    use crate::data::testing::{JpegKind, jpeg};
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut worker = Worker::new();
    let subsamplings = [
        turbojpeg::Subsamp::None,
        turbojpeg::Subsamp::Sub2x2,
        turbojpeg::Subsamp::Sub2x1,
    ];
    for case in 0..60 {
        let (width, height) = (between(&mut stream, 8, 400), between(&mut stream, 8, 300));
        let crop = between(&mut stream, 1, 100);
        let view = random_view(&mut stream, crop, 200);
        let kind = JpegKind {
            subsampling: subsamplings[case % 3],
            progressive: case % 2 == 0,
            pixels: turbojpeg::PixelFormat::RGB,
        };
        let bytes = jpeg(&picture(&mut stream, width, height), width, height, kind);
        let mut whole = Vec::new();
        Decoder::new().decode(&bytes, &mut whole).expect("a good JPEG");
        let mut out = vec![0; crop * crop * 3];
        worker.render(&bytes, &view, crop, &mut out).expect("a good JPEG");
        let largest = difference(&out, &rescale_then_crop(&whole, width, height, &view, crop));
        assert!(largest <= 1, "seed {seed}, case {case}: off by {largest}");
    }
}
