use super::*;
use std::io::Write;

const LEN: usize = 100_000;

fn file() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard.tar");
    std::fs::write(&path, vec![7; LEN]).unwrap();
    (folder, path)
}

fn shorten(path: &Path, len: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

fn sum(map: &Map) -> u64 {
    map.iter().map(|byte| u64::from(*byte)).sum()
}

#[test]
fn a_file_that_is_shortened_while_it_is_mapped_is_named() {
    for (len, expected) in [(0, 0), (5000, 7 * 5000), (LEN as u64 - 1, 7 * (LEN as u64 - 1))] {
        let (_folder, path) = file();
        let map = Map::open(&path).unwrap();
        map.confirm(&path).unwrap();
        shorten(&path, len);
        assert_eq!(sum(&map), expected, "what is lost reads as zeros");
        let error = map.confirm(&path).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let said = error.to_string();
        assert!(
            said.contains("shard.tar") && said.contains(&format!("found {len} bytes")),
            "{said}"
        );
    }
}

/// Lost is lost, also where the file is as long as before again.
#[test]
fn what_was_read_as_zeros_is_told_when_the_file_has_grown_again() {
    let (_folder, path) = file();
    let map = Map::open(&path).unwrap();
    shorten(&path, 0);
    assert_eq!(sum(&map), 0);
    std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(&vec![7; LEN])
        .unwrap();
    let said = map.confirm(&path).unwrap_err().to_string();
    assert!(said.contains("cannot be read any more"), "{said}");
}

#[test]
fn a_file_that_is_removed_keeps_its_bytes() {
    let (_folder, path) = file();
    let map = Map::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(sum(&map), 7 * LEN as u64);
    map.confirm(&path).unwrap();
}

#[test]
fn many_threads_may_lose_many_files() {
    let files: Vec<_> = (0..8).map(|_| file()).collect();
    let maps: Vec<Map> = files.iter().map(|(_, path)| Map::open(path).unwrap()).collect();
    drop(Map::open(&files[0].1).unwrap());
    let (gone, kept) = files.split_at(4);
    for (_, path) in gone {
        shorten(path, 4096);
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| maps.iter().map(sum).collect::<Vec<_>>());
        }
    });
    let lost: Vec<bool> = maps
        .iter()
        .zip(&files)
        .map(|(map, (_, path))| map.confirm(path).is_err())
        .collect();
    assert_eq!(lost, [[true; 4], [false; 4]].concat());
    assert!(
        maps[4..].iter().all(|map| sum(map) == 7 * LEN as u64),
        "{} files",
        kept.len()
    );
}
