//! Packing, reading, verifying: from image files to shards and back, through the public interface.

mod damage;
mod imagenet;
mod large_headers;
mod mutations;
mod other_tools;
mod packing;
mod pillow;
mod repair;
mod resume;
mod taken_away;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use verydeep::Result;
use verydeep::data::pack::{PackOptions, PackReport, Source, pack};
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::data::verify::{VerifyReport, verify};
use verydeep::rng::{Purpose, Stream};

/// A small PNG, different for every seed.
fn png(seed: u64) -> Vec<u8> {
    let mut stream = Stream::new(seed, 0, Purpose::Synthetic, 0);
    let (width, height) = (8 + stream.below(24) as u32, 8 + stream.below(24) as u32);
    let pixels: Vec<u8> = (0..3 * width * height).map(|_| stream.next_u32() as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

/// An image of `tests/golden/images`.
fn golden_image(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    fs::read(folder.join(name)).unwrap()
}

/// A number that a nightly run says in the environment.
fn said(variable: &str, otherwise: u64) -> u64 {
    let said = std::env::var(variable).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Another one every time, unless `VERYDEEP_TEST_SEED` fixes it.
fn seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    said("VERYDEEP_TEST_SEED", now.as_nanos() as u64)
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Three classes with 11 training and 2 validation images each.
fn photos(root: &Path) -> PathBuf {
    let images = root.join("photos");
    for (c, class) in ["cat", "dog", "eel"].iter().enumerate() {
        for i in 0..13 {
            let split = if i < 11 { "train" } else { "val" };
            write(
                &images,
                &format!("{split}/{class}/{i:02}.png"),
                &png((100 * c + i) as u64),
            );
        }
    }
    images
}

fn options() -> PackOptions {
    PackOptions {
        shard_size: 10,
        ..PackOptions::default()
    }
}

fn pack_folder(images: &Path, out: &Path, options: &PackOptions) -> Result<PackReport> {
    pack(
        &Source::Folder {
            images: images.to_path_buf(),
        },
        out,
        options,
        &|_| (),
    )
}

fn verified(path: &Path) -> VerifyReport {
    verify(path, &|_| ()).unwrap()
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

/// Everything in a data set: key -> (label, encoded image).
fn samples(out: &Path, split: Split, io: IoMode) -> BTreeMap<String, (u32, Vec<u8>)> {
    let dataset = Dataset::open(out, split, io).unwrap();
    let mut scratch = Vec::new();
    (0..dataset.len())
        .map(|i| {
            (
                dataset.key(i).to_string(),
                (dataset.label(i), dataset.read(i, &mut scratch).unwrap().to_vec()),
            )
        })
        .collect()
}
