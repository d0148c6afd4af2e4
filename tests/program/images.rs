//! Folders of small images that are easy to tell apart, and shards packed from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::tool::run_ok;

pub(crate) const CLASSES: usize = 4;
pub(crate) const TRAIN: usize = 12;
pub(crate) const VALIDATION: usize = 5;

/// Stripes whose direction and colour follow from the class, at a size that follows from the number.
fn write_image(path: &Path, class: usize, number: usize) {
    let (width, height) = (38 + number % 7, 36 + number % 5);
    let pixel = |x: usize, y: usize| -> [u8; 3] {
        let along = if class.is_multiple_of(2) { x } else { y };
        let stripe = if (along + number).is_multiple_of(8 + class) || (along + number) % 6 < 3 {
            220
        } else {
            30
        };
        let noise = ((x * 31 + y * 17 + number * 13) % 23) as u8;
        match class {
            0 | 1 => [stripe - noise, 90 + noise, 40],
            _ => [40, 60 + noise, stripe - noise],
        }
    };
    let data: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)))
        .collect();
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
}

/// `root/{train,val}/<class>/<number>.png`.
pub(crate) fn write_folder(root: &Path) {
    for (split, count) in [("train", TRAIN), ("val", VALIDATION)] {
        for class in 0..CLASSES {
            let folder = root.join(split).join(format!("class{class}"));
            fs::create_dir_all(&folder).unwrap();
            (0..count)
                .for_each(|n| write_image(&folder.join(format!("{n}.png")), class, n + 100 * split.len()));
        }
    }
}

struct Shared {
    _folder: TempDir,
    images: PathBuf,
    shards: PathBuf,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (images, shards) = (folder.path().join("images"), folder.path().join("shards"));
        write_folder(&images);
        run_ok([
            "pack",
            "--images",
            images.to_str().unwrap(),
            "--out",
            shards.to_str().unwrap(),
            "--shard-size",
            "20",
        ]);
        Shared {
            _folder: folder,
            images,
            shards,
        }
    })
}

/// Shards that all tests of one process read.
pub(crate) fn shards() -> &'static str {
    shared().shards.to_str().unwrap()
}

/// The images that the shards were packed from.
pub(crate) fn folder() -> &'static Path {
    &shared().images
}
