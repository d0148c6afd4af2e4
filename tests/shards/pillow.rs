//! Decoded and resized pixels beside Pillow's: `tests/golden/images`, made by `tools/golden-images`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use verydeep::data::augment::{Place, View};
use verydeep::data::decode::Decoder;
use verydeep::data::preprocess::{Exif, Flip};
use verydeep::data::render::Worker;

const CROP: usize = 8;

#[derive(Deserialize)]
struct Case {
    file: String,
    exif: Exif,
    size: [usize; 2],
    sha256: String,
    /// Shorter side, and the point of the grid; the middle where there is none.
    views: Vec<(usize, Option<[usize; 2]>)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

/// Every case, its file and Pillow's pixels of its views. Builds without libjpeg-turbo leave the JPEGs out: their decoder
/// has rules of its own.
fn cases() -> Vec<(Case, Vec<u8>, Vec<Vec<u8>>)> {
    let text = fs::read_to_string(folder().join("cases.jsonl")).unwrap();
    let pixels = fs::read(folder().join("pixels.bin")).unwrap();
    let mut pixels = pixels.chunks_exact(3 * CROP * CROP).map(<[u8]>::to_vec);
    let cases = text.lines().map(|line| {
        let case: Case = serde_json::from_str(line).unwrap();
        let bytes = fs::read(folder().join(&case.file)).unwrap();
        let expected = pixels.by_ref().take(case.views.len()).collect();
        (case, bytes, expected)
    });
    let cases: Vec<_> = cases.collect();
    let is_decoded_alike = |case: &Case| cfg!(feature = "turbojpeg") || !case.file.ends_with(".jpg");
    cases
        .into_iter()
        .filter(|(case, ..)| is_decoded_alike(case))
        .collect()
}

#[test]
fn every_format_decodes_to_pillows_pixels() {
    for (case, bytes, _) in cases() {
        let mut rgb = Vec::new();
        let decoded = Decoder::with_exif(case.exif).decode(&bytes, &mut rgb).unwrap();
        assert_eq!([decoded.width, decoded.height], case.size, "{}", case.file);
        assert_eq!(decoded.warning, None, "{}", case.file);
        let found: String = Sha256::digest(&rgb)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found, case.sha256, "{}", case.file);
    }
}

#[test]
fn crops_of_rescaled_images_are_within_one_level_of_pillows() {
    let mut crops = 0;
    for (case, bytes, expected) in cases() {
        let mut worker = Worker::with_exif(case.exif);
        for ((short_side, point), expected) in case.views.iter().zip(expected) {
            let view = View {
                short_side: *short_side,
                place: point.map_or(Place::Centre, |[across, down]| Place::Grid { across, down }),
                flip: Flip::Keep,
                colour: [0.0; 3],
            };
            let mut found = vec![0; expected.len()];
            worker.render(&bytes, &view, CROP, &mut found).unwrap();
            let apart = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(apart <= Some(1), "{} {view:?}: {apart:?} levels apart", case.file);
            crops += 1;
        }
    }
    assert!(!cfg!(feature = "turbojpeg") || crops >= 300, "{crops} crops");
}
