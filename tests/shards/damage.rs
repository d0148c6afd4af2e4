//! What `verify` says about shards that are not as they should be.

use std::collections::BTreeMap;
use std::fs;

use verydeep::Error;
use verydeep::data::index;
use verydeep::data::tar::TarWriter;
use verydeep::data::verify::verify;

use super::{options, pack_folder, photos, png, verified, write};

#[test]
fn verify_names_what_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = TarWriter::new(Vec::new());
    let bad_class = |class: &str| class.as_bytes().to_vec();
    let members = [
        ("good.cls", bad_class("0")),
        ("good.png", png(1)),
        ("letters.cls", bad_class("cat")),
        ("letters.png", png(2)),
        ("unlabelled.png", png(3)),
        ("blind.cls", bad_class("1")),
        ("broken.cls", bad_class("1")),
        ("broken.jpg", b"no image".to_vec()),
        ("good.cls", bad_class("0")),
        ("good.png", png(1)),
    ];
    let mut offsets = BTreeMap::new();
    for (name, bytes) in &members {
        offsets
            .entry(*name)
            .or_insert(writer.append(name, bytes).unwrap());
    }
    let archive = writer.finish().unwrap();
    write(root.path(), "x.tar", &archive);
    write(root.path(), "y.tar", &archive[..1000]);
    write(root.path(), "z.tar.gz", b"\x1f\x8b\x08\0 and so on");
    write(root.path(), "z.tar", b"");
    let report = verified(root.path());
    assert_eq!(report.shards, 4);
    let reason = |shard: &str, key: &str| {
        let found: Vec<_> = report
            .bad
            .iter()
            .filter(|bad| bad.shard == shard && bad.key == key)
            .collect();
        assert_eq!(found.len(), 1, "{shard} {key}: {:?}", report.bad);
        (found[0].offset, found[0].reason.clone())
    };
    for (key, member, part) in [
        ("letters", "letters.png", "cat"),
        ("unlabelled", "unlabelled.png", ".cls"),
        ("blind", "blind.cls", "none"),
        ("broken", "broken.jpg", "JPEG, PNG"),
    ] {
        let (offset, reason) = reason("x.tar", key);
        assert!(
            offset == offsets[member] && reason.contains(part),
            "{key} at {offset}: {reason}"
        );
    }
    assert!(reason("x.tar", "good").1.contains("twice"));
    assert!(reason("y.tar", "").1.contains("truncated"));
    assert!(reason("z.tar.gz", "").1.contains("gzip -dc"));
    assert!(reason("z.tar", "").1.contains("end of the file"));
    assert!(matches!(
        verify(&root.path().join("nothing"), &|_| ()),
        Err(Error::Io { .. })
    ));
}

#[test]
fn verify_compares_archive_index_and_manifest() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    pack_folder(&images, &out, &options()).unwrap();
    let shard = out.join("photos-train-0001.tar");
    let whole = fs::read(&shard).unwrap();
    let index = fs::read_to_string(index::path_of(&shard)).unwrap();

    // Cut: the index still names what is lost, and the samples before the cut are fine.
    fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
    let report = verified(&out);
    let named = report
        .bad
        .iter()
        .filter(|bad| bad.shard == "photos-train-0001.tar" && !bad.key.is_empty())
        .count();
    assert!((3..8).contains(&named), "{:?}", report.bad);
    assert_eq!(report.samples, 39);
    fs::write(&shard, &whole).unwrap();

    // A stale index, an index that is gone (which is no harm), a shard that is gone.
    fs::write(index::path_of(&shard), index.replacen("png 1536", "png 2048", 1)).unwrap();
    assert!(verified(&out).bad[0].reason.contains("line 2"));
    fs::remove_file(index::path_of(&shard)).unwrap();
    assert!(verified(&out).bad.is_empty());
    fs::write(index::path_of(&shard), index).unwrap();
    fs::remove_file(&shard).unwrap();
    let report = verified(&out);
    assert_eq!(
        (report.bad.len(), report.samples, report.bad[0].shard.as_str()),
        (1, 29, "photos-train-0001.tar")
    );
    fs::write(&shard, &whole).unwrap();

    let info = fs::read_to_string(out.join("_info.json")).unwrap();
    fs::write(out.join("_info.json"), info.replacen("10", "11", 1)).unwrap();
    assert_eq!(verified(&out).bad[0].shard, "_info.json");
}
