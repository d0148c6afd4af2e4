//! Shards that are shortened while they are read.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use verydeep::Error;
use verydeep::data::augment::Views;
use verydeep::data::loader::{Config, Loader, Mode, OnBad, Positions};
use verydeep::data::shards::{Dataset, IoMode, Split};

use super::{options, pack_folder, photos};

/// What a loader says that has opened the shards before they were shortened to `len` bytes.
fn shortened(out: &Path, io: IoMode, len: u64) -> Error {
    let data = Dataset::open(out, Split::Train, io).unwrap();
    for entry in data.manifest().shards(Split::Train) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(out.join(&entry.file))
            .unwrap();
        file.set_len(len).unwrap();
    }
    let samples = data.len() as u64;
    let config = Config {
        threads: 2,
        slots: 2,
        positions: Positions::from(0, 2).unwrap().until(samples),
        views: Views::centred(8, 8).unwrap(),
        mode: Mode::Evaluate { on_bad: OnBad::Skip },
    };
    let mut loader = Loader::new(Arc::new(data), config).unwrap();
    loop {
        match loader.next_slot() {
            Ok(slot) => assert!(
                slot.is_some_and(|slot| slot.bad.is_empty()),
                "no error, or a bad image"
            ),
            Err(error) => return error,
        }
    }
}

#[test]
fn every_length_is_told_by_name_and_no_image_is_called_bad() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    pack_folder(&images, &out, &options()).unwrap();
    let first = Dataset::open(&out, Split::Train, IoMode::Mmap).unwrap();
    let entry = first.manifest().shards(Split::Train).next().unwrap().clone();
    let whole: Vec<_> = first
        .manifest()
        .shards(Split::Train)
        .map(|entry| (out.join(&entry.file), fs::read(out.join(&entry.file)).unwrap()))
        .collect();
    drop(first);
    for io in [IoMode::Mmap, IoMode::Pread] {
        // Nothing, within the first header, within the first image, at a page's end, behind it.
        for len in [0, 100, 1600, 4096, 4100] {
            if len >= entry.bytes {
                continue;
            }
            let error = shortened(&out, io, len);
            assert_eq!(error.exit_code(), 3);
            let said = error.to_string();
            assert!(
                said.contains("-train-")
                    && said.contains(&format!("found {len} bytes"))
                    && said.contains("--resume"),
                "{io:?}, {len} bytes: {said}"
            );
            whole
                .iter()
                .for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        }
    }
}
