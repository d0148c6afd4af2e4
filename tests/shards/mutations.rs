//! Shards damaged at random: what is damaged is named, what is not is kept. `VERYDEEP_TEST_MUTATIONS` says how many
//! (500), `VERYDEEP_TEST_SEED` repeats them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use verydeep::Error;
use verydeep::data::file::RandomFile;
use verydeep::data::index::{self, Sample};
use verydeep::data::pack::PackOptions;
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::data::tar::{BLOCK, Member};
use verydeep::data::verify::repair;
use verydeep::error::BadSample;
use verydeep::rng::{Purpose, Stream};

use super::{golden_image, pack_folder, said, samples, verified, write};

const SHARD: &str = "mixed-train-0000.tar";

/// One shard of images of every format.
fn mixed(root: &Path) -> PathBuf {
    let images = root.join("mixed");
    let files = [
        "420.jpg",
        "444-progressive.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "restart.jpg",
        "palette.png",
        "rgba.png",
        "deep.png",
        "lossy.webp",
        "lossless.webp",
        "palette.gif",
    ];
    for (i, file) in files.into_iter().enumerate() {
        write(
            &images,
            &format!("train/class{}/{i}-{file}", i % 3),
            &golden_image(file),
        );
    }
    let out = root.join("shards");
    pack_folder(&images, &out, &PackOptions::default()).unwrap();
    out
}

/// A random change, and whether blocks keep their places.
fn mutate(stream: &mut Stream, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let mut position = |len: usize| stream.below(len as u64) as usize;
    let block = BLOCK as usize;
    let blocks = whole.len() / block;
    match position(7) {
        0 | 1 => bytes[position(whole.len())] ^= 1 << position(8),
        2 => bytes.truncate(position(whole.len())),
        3 => {
            let (a, b) = (position(blocks), position(blocks));
            for i in 0..block {
                bytes.swap(a * block + i, b * block + i);
            }
        }
        4 => {
            let page = 4096 * position(whole.len() / 4096);
            bytes[page..page + 4096].fill(0);
        }
        5 => {
            let at = position(whole.len());
            let end = whole.len().min(at + 1 + position(2000));
            bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte = position(256) as u8);
        }
        _ => {
            let at = block * position(blocks);
            bytes.drain(at..at + block);
        }
    }
    bytes
}

/// What a change did to a sample.
#[derive(PartialEq)]
enum Harm {
    /// Not one byte from its first header to its last block of data.
    None,
    /// Only in headers or padding.
    Around,
    /// Its image or its class is another, or gone.
    Content,
}

fn harm(sample: &Sample, whole: &[u8], damaged: &[u8]) -> Harm {
    let differs = |from: u64, to: u64| {
        let range = from as usize..to as usize;
        damaged.get(range.clone()) != Some(&whole[range])
    };
    let data = |member: &Member| differs(member.offset, member.offset + member.size);
    let span = |member: &Member| {
        differs(
            member.offset - BLOCK,
            member.offset + member.size.next_multiple_of(BLOCK),
        )
    };
    if sample.members().iter().any(data) {
        Harm::Content
    } else if sample.members().iter().any(span) {
        Harm::Around
    } else {
        Harm::None
    }
}

#[test]
fn every_damaged_sample_is_named_and_no_other_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let out = mixed(root.path());
    let shard = out.join(SHARD);
    let whole = fs::read(&shard).unwrap();
    let good = samples(&out, Split::Train, IoMode::Mmap);
    let listed = index::load(&RandomFile::open(&shard, IoMode::Mmap).unwrap()).unwrap();
    assert!(verified(&out).bad.is_empty());
    let seed = super::seed();
    let mut stream = Stream::new(seed, 0, Purpose::Synthetic, 0);
    for round in 0..said("VERYDEEP_TEST_MUTATIONS", 500) {
        let at = format!("seed {seed}, round {round}");
        let damaged = mutate(&mut stream, &whole);
        fs::write(&shard, &damaged).unwrap();
        let bad = verified(&out).bad;
        assert_eq!(bad.is_empty(), damaged == whole, "{at}: {bad:?}");
        assert!(bad.iter().all(|bad| bad.shard == SHARD), "{at}: {bad:?}");
        let names = |key: &str| -> Vec<&BadSample> { bad.iter().filter(|bad| bad.key == key).collect() };
        for sample in &listed {
            let (key, image) = (sample.key(), sample.image().unwrap());
            match harm(sample, &whole, &damaged) {
                Harm::None => assert!(names(key).is_empty(), "{at}: {key} is whole, {bad:?}"),
                Harm::Around => {}
                Harm::Content => assert!(
                    names(key).iter().any(|bad| bad.offset == image.offset),
                    "{at}: {key} at {}, {bad:?}",
                    image.offset
                ),
            }
        }
        if damaged.len() == whole.len() {
            read_damaged(&out, &whole, &damaged, &listed, &at);
        }
        if round % 10 == 0 {
            let repaired = root.path().join("repaired");
            match repair(&out, &repaired, &|_| ()) {
                Ok(report) => {
                    let after = verified(&repaired);
                    assert!(
                        after.bad.is_empty() && after.samples == report.kept,
                        "{at}: {after:?}"
                    );
                    let kept = samples(&repaired, Split::Train, IoMode::Mmap);
                    let keys: BTreeSet<&str> = kept.keys().map(String::as_str).collect();
                    for sample in &listed {
                        let intact = harm(sample, &whole, &damaged) == Harm::None;
                        assert!(
                            !intact || keys.contains(sample.key()),
                            "{at}: {} is lost",
                            sample.key()
                        );
                    }
                    assert!(kept.iter().all(|(key, sample)| good[key] == *sample), "{at}");
                    fs::remove_dir_all(&repaired).unwrap();
                }
                Err(error) => assert!(
                    listed
                        .iter()
                        .all(|sample| harm(sample, &whole, &damaged) != Harm::None),
                    "{at}: {error}"
                ),
            }
        }
    }
}

/// Reading gives what was packed, or names the sample.
fn read_damaged(out: &Path, whole: &[u8], damaged: &[u8], listed: &[Sample], at: &str) {
    let Ok(dataset) = Dataset::open(out, Split::Train, IoMode::Mmap) else {
        // The first and the last header are gone.
        let ends = [&listed[0], &listed[listed.len() - 1]];
        assert!(
            ends.iter()
                .all(|sample| harm(sample, whole, damaged) != Harm::None),
            "{at}"
        );
        return;
    };
    let mut scratch = Vec::new();
    for (i, sample) in listed.iter().enumerate() {
        let image = sample.image().unwrap();
        let range = image.offset as usize..(image.offset + image.size) as usize;
        match dataset.read(i, &mut scratch) {
            Ok(bytes) => assert!(bytes == &whole[range], "{at}: {}", sample.key()),
            Err(Error::Sample(bad)) => {
                assert_eq!(
                    (bad.key.as_str(), bad.offset),
                    (sample.key(), image.offset),
                    "{at}"
                );
                assert!(harm(sample, whole, damaged) != Harm::None, "{at}: {bad}");
            }
            Err(error) => panic!("{at}: {error}"),
        }
    }
}
