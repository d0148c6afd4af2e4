use super::super::TarWriter;
use super::*;
use crate::data::file::IoMode;

/// Scans `archive` through both ways of reading, which must agree.
fn scan_bytes(archive: &[u8]) -> Scan {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let [mapped, read] = [IoMode::Mmap, IoMode::Pread].map(|io| {
        let file = RandomFile::open(file.path(), io).unwrap();
        scan(&file, 0..file.len())
    });
    assert_eq!(mapped.members, read.members);
    assert_eq!(mapped.damage, read.damage);
    mapped
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (name, data) in members {
        writer.append(name, data).unwrap();
    }
    writer.finish().unwrap()
}

/// A block with a right checksum, of any kind.
fn block(name: &str, size: u64, kind: u8) -> Vec<u8> {
    let mut block = Header::write(name, size).unwrap();
    block[156] = kind;
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (key, value) in records {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while length != body.len() + length.to_string().len() {
            length += 1;
        }
        all.extend(format!("{length}{body}").bytes());
    }
    all
}

#[test]
fn what_the_writer_writes_is_found() {
    let archive = archive(&[("a.cls", b"0"), ("a.jpg", &[7; 513]), ("b.jpg", b"")]);
    assert_eq!(archive.len(), 10240);
    let scan = scan_bytes(&archive);
    assert_eq!(scan.damage, None);
    let found: Vec<_> = scan
        .members
        .iter()
        .map(|m| (m.name.as_str(), m.offset, m.size))
        .collect();
    assert_eq!(
        found,
        [("a.cls", 512, 1), ("a.jpg", 1536, 513), ("b.jpg", 3072, 0)]
    );
    assert_eq!(&archive[1536..1536 + 513], &[7; 513]);
}

#[test]
fn extension_headers_name_and_size_the_member_that_follows() {
    let long = format!("{}/x.jpg", "folder".repeat(30));
    let first = pax(&[("mtime", "1.5"), ("path", "pax.jpg"), ("size", "3")]);
    let global = pax(&[("comment", "hello")]);
    let archive = [
        block("pax_global_header", global.len() as u64, b'g'),
        padded(&global),
        block("PaxHeaders/a", first.len() as u64, b'x'),
        padded(&first),
        block("shortened", 0, b'0'),
        padded(b"abc"),
        block("././@LongLink", 4, b'K'),
        padded(b"tgt\0"),
        block("././@LongLink", long.len() as u64 + 1, b'L'),
        padded(format!("{long}\0").as_bytes()),
        block("folder", 2, b'0'),
        padded(b"de"),
        block("folder/", 0, b'5'),
        block("link.jpg", 0, b'2'),
        block("plain.jpg", 1, 0),
        padded(b"f"),
        vec![0; 1024],
    ]
    .concat();
    let scan = scan_bytes(&archive);
    assert_eq!(scan.damage, None);
    let found: Vec<_> = scan
        .members
        .iter()
        .map(|m| (m.name.as_str(), &archive[m.offset as usize..][..m.size as usize]))
        .collect();
    assert_eq!(
        found,
        [
            ("pax.jpg", &b"abc"[..]),
            (long.as_str(), b"de"),
            ("plain.jpg", b"f")
        ]
    );
}

#[test]
fn a_prefix_and_a_size_in_base_256_are_read() {
    let mut header = block("x.jpg", 0, b'0');
    header[345..351].copy_from_slice(b"folder");
    header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
        .sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let scan = scan_bytes(&[header, padded(b"hi"), vec![0; 1024]].concat());
    assert_eq!(
        scan.members,
        [Member {
            name: "folder/x.jpg".into(),
            offset: 512,
            size: 2
        }]
    );
}

#[test]
fn every_truncation_is_noticed_and_keeps_what_lies_before_it() {
    let whole = archive(&[("a.jpg", &[1; 700]), ("b.jpg", &[2; 10])]);
    let (first_end, second_end) = (512 + 1024, 512 + 1024 + 1024);
    for len in 0..second_end {
        let scan = scan_bytes(&whole[..len]);
        let expected = usize::from(len >= 512 + 700) + usize::from(len >= first_end + 512 + 10);
        assert_eq!(scan.members.len(), expected, "{len} bytes");
        assert!(scan.damage.is_some(), "{len} bytes");
    }
    assert!(scan_bytes(&whole[..second_end + 512]).damage.is_none());
}

#[test]
fn compressed_archives_are_refused_with_the_command_that_unpacks_them() {
    for (magic, tool) in COMPRESSED {
        for len in [20, 2000] {
            let mut bytes = magic.to_vec();
            bytes.resize(len, 0x55);
            let damage = scan_bytes(&bytes).damage.unwrap();
            assert!(
                damage.found.contains(tool) && damage.hint.contains(&format!("{tool} -dc")),
                "{damage:?}"
            );
        }
    }
}

#[test]
fn hostile_records_are_damage_and_nothing_worse() {
    for record in [
        "9999999 path=x\n",
        "5",
        "0 a=b\n",
        "18446744073709551615 a=b\n",
        "7 ab\n",
        "12 size=abc\n",
        "6 a=bX",
    ] {
        let archive = [
            block("x", record.len() as u64, b'x'),
            padded(record.as_bytes()),
            vec![0; 1024],
        ]
        .concat();
        assert!(scan_bytes(&archive).damage.is_some(), "{record}");
    }
    let huge = [block("x", 8 << 20, b'L'), vec![0; 4096]].concat();
    assert!(scan_bytes(&huge).damage.unwrap().expected.contains("at most"));
    let size = pax(&[("size", "18446744073709551615")]);
    let archive = [
        block("x", size.len() as u64, b'x'),
        padded(&size),
        block("y", 0, b'0'),
        vec![0; 1024],
    ]
    .concat();
    assert!(
        scan_bytes(&archive)
            .damage
            .unwrap()
            .expected
            .contains("18446744073709551615")
    );
    let sparse = pax(&[("GNU.sparse.major", "1")]);
    let archive = [
        block("x", sparse.len() as u64, b'x'),
        padded(&sparse),
        block("y", 0, b'0'),
        vec![0; 1024],
    ]
    .concat();
    assert!(scan_bytes(&archive).damage.unwrap().found.contains("sparse"));
}

#[test]
fn an_archive_within_an_archive_is_scanned_in_place() {
    let inner = archive(&[("n01440764_1.JPEG", b"one"), ("n01440764_2.JPEG", b"two")]);
    let outer = archive(&[("n01440764.tar", &inner)]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &outer).unwrap();
    let file = RandomFile::open(file.path(), IoMode::Mmap).unwrap();
    let class = &scan(&file, 0..file.len()).members[0];
    let images = scan(&file, class.offset..class.offset + class.size);
    assert_eq!(images.damage, None);
    let image = &images.members[1];
    assert_eq!(image.name, "n01440764_2.JPEG");
    assert_eq!(&outer[image.offset as usize..][..3], b"two");
}

#[test]
fn a_member_knows_its_own_header() {
    let archive = archive(&[("a.jpg", &[1; 700])]);
    let member = Member {
        name: "a.jpg".into(),
        offset: 512,
        size: 700,
    };
    assert_eq!(member.check_header(&archive[..512]), Ok(()));
    let stale = Member {
        size: 701,
        ..member.clone()
    };
    assert!(stale.check_header(&archive[..512]).unwrap_err().contains("701"));
    assert!(member.check_header(&archive[512..1024]).is_err());
    assert!(member.check_header(b"").is_err());
}
