//! The corpora of the fuzz targets, as they are and changed at random. `tools/fuzz` goes on from here, with feedback.

#[path = "../fuzz/src/repair.rs"]
#[allow(unreachable_pub)] // they are a library there
mod repair;
#[path = "../fuzz/src/targets.rs"]
#[allow(unreachable_pub)]
mod targets;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use verydeep::data::decode::Decoder;
use verydeep::data::{index, manifest::Manifest, tar};
use verydeep::network::Extent;
use verydeep::parallel::control;
use verydeep::rng::{Purpose, Stream};
use verydeep::train::{Recipe, log};
use verydeep::weights::{Format, Model};

/// Changes of every file; `VERYDEEP_TEST_MUTATIONS` asks for more.
const MUTATIONS: usize = 200;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn every_target_has_a_program_and_takes_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut programs: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    programs.sort();
    let mut names: Vec<_> = targets::ALL.iter().map(|(name, _)| name.to_string()).collect();
    names.sort();
    assert_eq!(programs, names);
    for (name, target) in targets::ALL {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name}");
        files.iter().for_each(|(_, bytes)| target(bytes));
    }
}

/// Good files are read: a fuzzer that starts from refusals stays among them.
#[test]
fn the_corpora_hold_good_files() {
    let file = |target: &str, name: &str| {
        let found = corpus(target).into_iter().find(|(path, _)| path.ends_with(name));
        found.unwrap_or_else(|| panic!("{target}/{name}")).1
    };
    let path = Path::new("x");
    for (name, members) in [("ustar", 4), ("pax", 1), ("gnu", 1), ("prefix", 1)] {
        let bytes = file("tar", &format!("{name}.tar"));
        let shard = verydeep::data::file::RandomFile::in_memory(path, bytes);
        let found = tar::scan(&shard, 0..shard.len()).whole(path).unwrap();
        assert_eq!(found.len(), members, "{name}");
    }
    let shard = verydeep::data::file::RandomFile::in_memory(path, file("tar", "ustar.tar"));
    let text = String::from_utf8(file("idx", "whole.idx")).unwrap();
    assert_eq!(index::load_from(&text, &shard).unwrap().len(), 2);
    for name in ["small.json", "empty.json", "crc32.json"] {
        Manifest::parse(&file("manifest", name), path).unwrap();
    }
    for (image, bytes) in corpus("jpeg") {
        let decoded = Decoder::new()
            .decode(&bytes[..bytes.len() - 8], &mut Vec::new())
            .unwrap();
        assert_eq!(decoded.warning, None, "{}", image.display());
    }
    for name in ["weights.safetensors", "step.safetensors"] {
        Model::open_from(path, file("checkpoint", name)).unwrap();
    }
    for name in ["plateau.toml", "step.toml", "devices.toml"] {
        let text = String::from_utf8(file("recipe", name)).unwrap();
        Recipe::parse(&text, path).unwrap().check().unwrap();
    }
    let text = String::from_utf8(file("log", "whole.jsonl")).unwrap();
    assert_eq!(log::parse_log(&text, path).unwrap().len(), 9);
    for (target, name, format) in [
        ("pth", "half.pth", Format::Torch),
        ("safetensors", "half.safetensors", Format::Safetensors),
        ("caffemodel", "current.caffemodel", Format::Caffe),
        ("onnx", "half.onnx", Format::Onnx),
    ] {
        let model = Model::import_from(path, &file(target, name), Some(format), None, Extent::Whole).unwrap();
        assert_eq!(model.spec.classes, 3, "{name}");
    }
    for (frames, bytes) in corpus("wire") {
        let (names, error) = control::heard(&[&bytes], targets::TOKEN);
        assert!(
            names.len() >= 2 && error.is_none(),
            "{}: {error:?}",
            frames.display()
        );
    }
}

#[test]
fn changed_files_are_read_or_refused() {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed = number("VERYDEEP_TEST_SEED", now.as_nanos() as u64);
    let mutations = number("VERYDEEP_TEST_MUTATIONS", MUTATIONS as u64);
    writeln!(std::io::stderr(), "VERYDEEP_TEST_SEED={seed}").unwrap();
    for (name, target) in targets::ALL {
        for (_, bytes) in corpus(name) {
            for i in 0..mutations {
                let mut draw = Stream::new(seed, i, Purpose::Synthetic, 0);
                let mut changed = change(&bytes, &mut draw);
                if draw.below(4) > 0 {
                    repair::of(name)(&mut changed);
                }
                target(&changed);
            }
        }
    }
}

/// A few bytes changed, a part copied over another, or an end cut off.
fn change(bytes: &[u8], draw: &mut Stream) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..=draw.below(3) {
        let below = |draw: &mut Stream, n: usize| draw.below(n as u64) as usize;
        if changed.is_empty() {
            return changed;
        }
        let at = below(draw, changed.len());
        match draw.below(5) {
            0 => changed[at] ^= 1 << draw.below(8),
            1 => changed[at] = draw.next_u32() as u8,
            2 => changed[at] = [0, 1, 0x7f, 0x80, 0xff, b'9'][below(draw, 6)],
            3 => {
                let from = below(draw, changed.len());
                let len = 1 + below(draw, 32.min(changed.len() - at.max(from)));
                changed.copy_within(from..from + len, at);
            }
            _ => changed.truncate(at.max(8)),
        }
    }
    changed
}
