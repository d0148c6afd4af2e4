//! What other tools make of our shards, and we of theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};
use verydeep::data::file::RandomFile;
use verydeep::data::index;
use verydeep::data::manifest::Manifest;
use verydeep::data::pack::{PackOptions, Source, pack};
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::data::tar::TarWriter;
use verydeep::data::verify::inspect;

use super::{contents, options, pack_folder, photos, png, verified, write};

/// What DALI's wds2idx does: it reads GNU tar's listings, and writes a line for each run of equal basenames.
fn index_by_gnu_tar(shard: &Path) -> String {
    let list = |arguments: &[&str]| {
        let output = Command::new("tar")
            .args(arguments)
            .arg(shard)
            .env("LC_ALL", "C")
            .output()
            .expect("GNU tar");
        String::from_utf8(output.stdout).unwrap()
    };
    let blocks = list(&["--list", "--block-number", "--file"]);
    let details = list(&["--list", "--verbose", "--file"]);
    let (mut lines, mut last): (Vec<String>, String) = (Vec::new(), String::new());
    for (block, detail) in blocks.lines().zip(details.lines()) {
        let Some((block, name)) = block
            .strip_prefix("block ")
            .and_then(|line| line.split_once(": "))
        else {
            continue;
        };
        if !detail.starts_with('-') {
            continue;
        }
        let offset = (block.parse::<u64>().unwrap() + 1) * 512;
        let size = detail.split_ascii_whitespace().nth(2).unwrap();
        let file = name.rfind('/').map_or(0, |slash| slash + 1);
        let dot = file + name[file..].find('.').unwrap();
        let component = format!("{} {offset} {size} {name}", &name[dot + 1..]);
        if name[..dot] == last && !lines.is_empty() {
            let line = lines.last_mut().unwrap();
            line.push(' ');
            line.push_str(&component);
        } else {
            lines.push(component);
            last = name[..dot].to_string();
        }
    }
    format!("v1.2 {}\n{}\n", lines.len(), lines.join("\n"))
}

#[test]
fn indexes_equal_what_gnu_tar_and_wds2idx_make_of_the_shards() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    pack_folder(&images, &out, &options()).unwrap();
    for (name, bytes) in contents(&out)
        .into_iter()
        .filter(|(name, _)| name.ends_with(".idx"))
    {
        let expected = index_by_gnu_tar(&out.join(name.replace(".idx", ".tar")));
        assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{name}");
    }
}

#[test]
fn shards_made_by_gnu_tar_are_read() {
    let root = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "deep".repeat(20), "name".repeat(30));
    for (i, key) in ["a", "b", &long].iter().enumerate() {
        write(
            &root.path().join("files"),
            &format!("{key}.cls"),
            i.to_string().as_bytes(),
        );
        write(&root.path().join("files"), &format!("{key}.png"), &png(i as u64));
        write(&root.path().join("files"), &format!("{key}.json"), b"{}");
    }
    write(&root.path().join("files"), ".hidden", b"");
    for format in ["posix", "gnu", "v7", "oldgnu", "ustar"] {
        let shard = root.path().join(format!("{format}.tar"));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--format", format, "--file"])
            .arg(&shard)
            .arg("-C")
            .arg(root.path());
        // Names over 100 bytes do not fit into every format: those get the short ones.
        let only_short = matches!(format, "v7" | "ustar");
        tar.args(if only_short {
            vec!["--exclude=deep*", "files"]
        } else {
            vec!["files"]
        });
        let output = tar.output().expect("GNU tar");
        assert!(output.status.success(), "{format}: {output:?}");
        let expected = if only_short { 2 } else { 3 };
        let report = verified(&shard);
        assert_eq!((report.samples, report.shards), (expected, 1), "{format}");
        assert!(report.bad.is_empty(), "{format}: {report:?}");
        let summary = inspect(&shard).unwrap();
        assert_eq!(
            (summary.samples, summary.classes),
            (expected, expected),
            "{format}"
        );
        assert_eq!(
            Dataset::open(root.path(), Split::Train, IoMode::Mmap)
                .unwrap_err()
                .exit_code(),
            3,
            "a folder without a manifest"
        );
    }
    let report = verified(root.path());
    assert!(report.bad.is_empty() && report.shards == 5, "{report:?}");
}

#[derive(serde::Deserialize)]
struct Expected {
    key: String,
    class: u32,
    /// Extensions.
    members: Vec<String>,
    /// Of the image.
    sha256: String,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// `tests/golden/shards`, made by `tools/check-webdataset --golden`.
#[test]
fn golden_shards_of_python_and_gnu_tar_are_read_and_packed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/shards");
    let text = fs::read_to_string(folder.join("expected.json")).unwrap();
    let shards: BTreeMap<String, Vec<Expected>> = serde_json::from_str(&text).unwrap();
    assert_eq!(shards.len(), 5);
    assert!(verified(&folder).bad.is_empty());
    let (mut scratch, mut indexes) = (Vec::new(), 0);
    for (name, expected) in &shards {
        let file = RandomFile::open(&folder.join(name), IoMode::Pread).unwrap();
        let samples = index::load(&file).unwrap();
        assert_eq!(samples.len(), expected.len(), "{name}");
        let wds2idx = folder.join(name).with_extension("wds2idx");
        if wds2idx.exists() {
            assert_eq!(
                index::to_text(&samples),
                fs::read_to_string(&wds2idx).unwrap(),
                "{name}"
            );
            indexes += 1;
        }
        for (sample, expected) in samples.iter().zip(expected) {
            assert_eq!(sample.key(), expected.key, "{name}");
            let mut members: Vec<_> = sample
                .members()
                .iter()
                .map(|m| index::split_name(&m.name).unwrap().1)
                .collect();
            members.sort_unstable();
            assert_eq!(members, expected.members, "{name} {}", expected.key);
            let image = sample.image().unwrap();
            let bytes = file
                .read(image.offset..image.offset + image.size, &mut scratch)
                .unwrap();
            assert_eq!(sha256(bytes), expected.sha256, "{name} {}", expected.key);
        }
    }

    assert_eq!(indexes, 3, "DALI's wds2idx made them");

    let root = tempfile::tempdir().unwrap();
    let source = Source::Shards {
        shards: folder,
        class_names: None,
    };
    let out = root.path().join("packed");
    let report = pack(&source, &out, &options(), &|_| ()).unwrap();
    assert!(
        report.bad.is_empty() && verified(&out).bad.is_empty(),
        "{report:?}"
    );
    assert_eq!(Manifest::load(&out).unwrap().classes, ["0", "1", "2", "3"]);
    for split in Split::ALL {
        let is_validation = |name: &str| name.contains("val");
        let shards = shards
            .iter()
            .filter(|(name, _)| is_validation(name) == (split == Split::Validation));
        let mut expected: Vec<_> = shards
            .flat_map(|(_, samples)| samples)
            .map(|s| (s.class, s.sha256.clone()))
            .collect();
        let mut found: Vec<_> = super::samples(&out, split, IoMode::Mmap)
            .into_values()
            .map(|(label, bytes)| (label, sha256(&bytes)))
            .collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{split:?}");
    }
}

#[test]
fn shards_are_packed_again_under_names_of_their_classes_without_what_is_no_labelled_image() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = TarWriter::new(Vec::new());
    for (name, bytes) in [
        ("a.cls", b"1".to_vec()),
        ("a.png", png(1)),
        ("blind.cls", b"1".to_vec()),
        ("unlabelled.png", png(2)),
        ("broken.cls", b"0".to_vec()),
        ("broken.png", png(3)[..40].to_vec()),
    ] {
        writer.append(name, &bytes).unwrap();
    }
    write(root.path(), "x.tar", &writer.finish().unwrap());
    write(root.path(), "names", b"cat\ndog\neel\n");
    let source = |class_names: &str| Source::Shards {
        shards: root.path().join("x.tar"),
        class_names: Some(root.path().join(class_names)),
    };
    let out = root.path().join("out");
    let report = pack(&source("names"), &out, &options(), &|_| ()).unwrap();
    let mut left_out: Vec<_> = report
        .bad
        .iter()
        .map(|bad| (bad.key.as_str(), bad.offset))
        .collect();
    left_out.sort_unstable();
    assert_eq!(
        left_out.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        ["blind", "broken", "unlabelled"]
    );
    assert!(left_out.iter().all(|(_, offset)| *offset >= 512), "{left_out:?}");
    let manifest = Manifest::load(&out).unwrap();
    assert_eq!(
        (manifest.classes, manifest.left_out.len()),
        (vec!["cat".into(), "dog".into(), "eel".into()], 3)
    );
    assert_eq!(super::samples(&out, Split::Train, IoMode::Mmap)["a"], (1, png(1)));

    // A folder with a manifest keeps its classes, and another shuffle of it the same samples.
    let again = root.path().join("again");
    let source_again = Source::Shards {
        shards: out,
        class_names: None,
    };
    assert!(
        pack(&source_again, &again, &options(), &|_| ())
            .unwrap()
            .bad
            .is_empty()
    );
    assert_eq!(Manifest::load(&again).unwrap().classes, ["cat", "dog", "eel"]);

    write(root.path(), "few", b"cat\n");
    let limited = PackOptions {
        max_bad: Some("2".parse().unwrap()),
        ..options()
    };
    for (source, options, code) in [(source("few"), options(), 3), (source("names"), limited, 7)] {
        let out = root.path().join("refused");
        assert_eq!(
            pack(&source, &out, &options, &|_| ()).unwrap_err().exit_code(),
            code
        );
        assert!(!out.exists());
    }
}
