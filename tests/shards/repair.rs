//! `verify --repair`: shards without their bad samples.

use std::fs;

use verydeep::data::index;
use verydeep::data::manifest::Manifest;
use verydeep::data::shards::{IoMode, Split};
use verydeep::data::tar::TarWriter;
use verydeep::data::verify::repair;

use super::{contents, options, pack_folder, photos, png, samples, verified};

#[test]
fn what_is_whole_stays_as_it_is_and_what_is_not_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (images, out, repaired) = (
        photos(root.path()),
        root.path().join("shards"),
        root.path().join("new"),
    );
    pack_folder(&images, &out, &options()).unwrap();
    let before = samples(&out, Split::Train, IoMode::Mmap);
    let whole = contents(&out);

    // Nothing is bad: the same files.
    assert_eq!(repair(&out, &root.path().join("same"), &|_| ()).unwrap().kept, 39);
    assert!(contents(&root.path().join("same")) == whole);

    let shard = out.join("photos-train-0001.tar");
    let mut damaged = whole["photos-train-0001.tar"].clone();
    damaged[1536 + 100] ^= 1; // in the first image
    fs::write(&shard, &damaged).unwrap();
    let report = repair(&out, &repaired, &|_| ()).unwrap();
    assert_eq!((report.verified.samples, report.kept), (39, 38));
    let named: Vec<_> = report
        .verified
        .bad
        .iter()
        .filter(|bad| !bad.key.is_empty())
        .collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(
        (named[0].shard.as_str(), named[0].offset),
        ("photos-train-0001.tar", 1536)
    );

    assert!(verified(&repaired).bad.is_empty());
    let mut expected = before;
    expected.remove(&named[0].key).unwrap();
    assert!(samples(&repaired, Split::Train, IoMode::Mmap) == expected);
    let after = contents(&repaired);
    for (name, bytes) in &whole {
        let changed = name.starts_with("photos-train-0001") || name.ends_with(".json");
        assert!(changed || after[name] == *bytes, "{name}");
    }
    let manifest = Manifest::load(&repaired).unwrap();
    assert_eq!(manifest.left_out.len(), 1);
    assert_eq!(manifest.left_out[0].key, named[0].key);
    assert_eq!(manifest.mean_rgb, Manifest::load(&out).unwrap().mean_rgb);

    let again = repair(&out, &repaired, &|_| ()).unwrap_err();
    assert_eq!(again.exit_code(), 3, "an existing folder is left alone: {again}");
}

#[test]
fn shards_of_other_tools_keep_their_other_members() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = TarWriter::new(Vec::new());
    for (name, bytes) in [
        ("a.cls", b"0".to_vec()),
        ("a.json", b"{}".to_vec()),
        ("a.png", png(1)),
        ("broken.cls", b"1".to_vec()),
        ("broken.png", png(2)[..40].to_vec()),
        ("c.txt", b"a caption".to_vec()),
        ("c.cls", b"1".to_vec()),
        ("c.png", png(3)),
    ] {
        writer.append(name, &bytes).unwrap();
    }
    let (shard, out) = (root.path().join("x.tar"), root.path().join("repaired"));
    fs::write(&shard, writer.finish().unwrap()).unwrap();
    assert_eq!(repair(&shard, &out, &|_| ()).unwrap().kept, 2);
    let text = fs::read_to_string(out.join("x.idx")).unwrap();
    let kept = index::parse(&text, &out).unwrap();
    let names: Vec<_> = kept
        .iter()
        .flat_map(|sample| sample.members())
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["a.cls", "a.json", "a.png", "c.txt", "c.cls", "c.png"]);
    assert!(verified(&out).bad.is_empty());
    assert!(!out.join("manifest.json").exists(), "there was none");

    fs::write(&shard, b"no archive").unwrap();
    let nothing = root.path().join("nothing");
    assert_eq!(repair(&shard, &nothing, &|_| ()).unwrap_err().exit_code(), 3);
    assert!(!nothing.exists());
}
