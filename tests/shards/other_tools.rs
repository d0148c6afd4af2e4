//! What other tools make of our shards, and we of theirs.

use std::path::Path;
use std::process::Command;

use verydeep::data::shards::{Dataset, IoMode, Split};
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
