//! The index beside a shard (`.idx`): which members make up which sample, and where they lie.
//!
//! The format is that of DALI's `wds2idx`, byte for byte: a line `v1.2 <samples>`, then one line a sample with
//! `<extension> <offset of the data> <size> <member name>` for each of its members. A sample is a run of members
//! with the same key; the key is the name up to the first dot after the last slash.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::data::file::RandomFile;
use crate::data::image_files::is_decoded;
use crate::data::tar::{self, BLOCK, Member};
use crate::error::{Error, Result};

const VERSION: &str = "v1.2";

/// Members of one sample, in the order of the archive; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Never empty.
    members: Vec<Member>,
}

impl Sample {
    /// What its members' names share.
    pub fn key(&self) -> &str {
        split_name(&self.members[0].name).map_or("", |(key, _)| key)
    }

    /// The encoded image; a sample's other members are its label and what other tools add.
    pub fn image(&self) -> Option<&Member> {
        self.member(is_decoded)
    }

    /// The class index, in ASCII.
    pub fn class(&self) -> Option<&Member> {
        self.member(|extension| extension == "cls")
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    fn member(&self, wanted: impl Fn(&str) -> bool) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| split_name(&member.name).is_some_and(|(_, extension)| wanted(extension)))
    }
}

/// Key and extension of a member. `None` for hidden files and for names without an extension, which belong to no
/// sample.
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    (dot > file).then(|| (&name[..dot], &name[dot + 1..]))
}

/// Joins neighbouring members with the same key.
pub fn group(members: Vec<Member>) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for member in members {
        let Some((key, _)) = split_name(&member.name) else {
            continue;
        };
        match samples.last_mut() {
            Some(sample) if sample.key() == key => sample.members.push(member),
            _ => samples.push(Sample {
                members: vec![member],
            }),
        }
    }
    samples
}

/// The text of an index.
pub fn to_text(samples: &[Sample]) -> String {
    let mut text = format!("{VERSION} {}\n", samples.len());
    for sample in samples {
        for (i, member) in sample.members.iter().enumerate() {
            let separator = if i == 0 { "" } else { " " };
            let extension = split_name(&member.name).map_or("", |(_, extension)| extension);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{separator}{extension} {} {} {}",
                member.offset, member.size, member.name
            );
        }
        text.push('\n');
    }
    text
}

/// Reads the text of an index; `path` is for the errors.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Sample>> {
    let refuse = |line: usize, expected: &str, found: &str| {
        Error::invalid_hint(
            format_args!("{} line {line}", path.display()),
            expected,
            found,
            "delete it, and the shard is scanned instead",
        )
    };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("");
    let count = first
        .strip_prefix(VERSION)
        .and_then(|count| count.trim().parse::<usize>().ok());
    let count =
        count.ok_or_else(|| refuse(1, "\"v1.2\" and the number of samples", &format!("{first:.40?}")))?;
    let mut samples = Vec::new();
    for (i, line) in lines.enumerate() {
        let sample = parse_sample(line).ok_or_else(|| {
            refuse(
                i + 2,
                "\"extension offset size name\" for each member of one sample",
                &format!("{line:.200?}"),
            )
        })?;
        samples.push(sample);
    }
    if samples.len() != count || !text.ends_with('\n') {
        let found = format!("{} of {count}: it is truncated", samples.len());
        return Err(refuse(samples.len() + 1, "all samples", &found));
    }
    Ok(samples)
}

fn parse_sample(line: &str) -> Option<Sample> {
    let mut words = line.split(' ');
    let mut members: Vec<Member> = Vec::new();
    while let Some(extension) = words.next() {
        let (offset, size) = (
            words.next()?.parse::<u64>().ok()?,
            words.next()?.parse::<u64>().ok()?,
        );
        let name = words.next()?;
        let (key, named_extension) = split_name(name)?;
        let same_sample = members
            .first()
            .is_none_or(|first| split_name(&first.name).is_some_and(|(k, _)| k == key));
        if named_extension != extension || !same_sample || offset < BLOCK || !offset.is_multiple_of(BLOCK) {
            return None;
        }
        members.push(Member {
            name: name.to_string(),
            offset,
            size,
        });
    }
    (!members.is_empty()).then_some(Sample { members })
}

/// Where the index of a shard lies.
pub fn path_of(shard: &Path) -> PathBuf {
    shard.with_extension("idx")
}

/// The samples of a shard: from the index beside it, or from a scan where there is none. An index whose members
/// leave the shard, or neither of whose first and last member is where it says, belongs to another file and is refused.
pub fn load(shard: &RandomFile) -> Result<Vec<Sample>> {
    let path = path_of(shard.path());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(group(tar::scan(shard, 0..shard.len()).whole(shard.path())?));
        }
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    load_from(&text, shard)
}

/// [`load`], where the text of the index is at hand.
pub fn load_from(text: &str, shard: &RandomFile) -> Result<Vec<Sample>> {
    let path = path_of(shard.path());
    let samples = parse(text, &path)?;
    check_against(&samples, shard, &path)?;
    Ok(samples)
}

fn check_against(samples: &[Sample], shard: &RandomFile, path: &Path) -> Result<()> {
    let stale = |member: &Member, expected: String, found: String| {
        Error::invalid_hint(
            format_args!(
                "{} of {}: {}",
                path.display(),
                shard.path().display(),
                member.name
            ),
            expected,
            found,
            "the index is older than the shard, or the shard is truncated; delete the index, and the shard is scanned",
        )
    };
    let members = || samples.iter().flat_map(|sample| &sample.members);
    for member in members() {
        if member
            .offset
            .checked_add(member.size)
            .is_none_or(|end| end > shard.len())
        {
            let extent = format!("{} bytes at {}", member.size, member.offset);
            return Err(stale(member, extent, format!("a shard of {} bytes", shard.len())));
        }
    }
    let mut scratch = Vec::new();
    let mut found = Vec::new();
    for member in members().next().into_iter().chain(members().next_back()) {
        let header = shard.read(member.offset - BLOCK..member.offset, &mut scratch)?;
        match member.check_header(header) {
            Ok(()) => return Ok(()), // one that is where it should be: whatever the other is, it is damage of its own
            Err(reason) => found.push((member, reason)),
        }
    }
    found.into_iter().next().map_or(Ok(()), |(member, reason)| {
        Err(stale(
            member,
            format!("the member at byte {}", member.offset),
            reason,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::IoMode;
    use crate::data::tar::TarWriter;

    fn member(name: &str, offset: u64, size: u64) -> Member {
        Member {
            name: name.to_string(),
            offset,
            size,
        }
    }

    #[test]
    fn names_split_as_webdataset_splits_them() {
        assert_eq!(split_name("a/b.c/d.e.jpg"), Some(("a/b.c/d", "e.jpg")));
        assert_eq!(split_name("n01440764_1.jpg"), Some(("n01440764_1", "jpg")));
        assert_eq!(split_name("a/.hidden"), None);
        assert_eq!(split_name("README"), None);
        assert_eq!(split_name("./x.jpg"), Some(("./x", "jpg")));
        assert_eq!(split_name(""), None);
    }

    #[test]
    fn an_index_reads_back() {
        let members = vec![
            member("a.cls", 512, 1),
            member("a.jpg", 1536, 700),
            member("._b.jpg", 2560, 9),
            member("b.JPEG", 3584, 5),
            member("b.json", 4608, 5),
            member("a.cls", 5632, 1),
        ];
        let samples = group(members);
        let text = to_text(&samples);
        assert_eq!(
            text,
            "v1.2 3\ncls 512 1 a.cls jpg 1536 700 a.jpg\nJPEG 3584 5 b.JPEG json 4608 5 b.json\ncls 5632 1 a.cls\n"
        );
        assert_eq!(parse(&text, Path::new("x.idx")).unwrap(), samples);
        assert_eq!(samples[0].class().unwrap().offset, 512);
        assert_eq!(samples[1].image().unwrap().name, "b.JPEG");
        assert!(samples[1].class().is_none() && samples[2].image().is_none());
    }

    #[test]
    fn every_truncation_is_refused() {
        let text = "v1.2 2\ncls 512 1 a.cls jpg 1536 700 a.jpg\ncls 3072 1 b.cls jpg 4096 7 b.jpg\n";
        for len in 0..text.len() {
            assert!(parse(&text[..len], Path::new("x.idx")).is_err(), "{len}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "jpg 512 1",
            "jpg x 1 a.jpg",
            "jpg 513 1 a.jpg",
            "jpg 0 1 a.jpg",
            "jpg 512 -1 a.jpg",
            "png 512 1 a.jpg",
            "jpg 512 1 a.jpg cls 1024 1 b.cls",
            "jpg 512 1 a b.jpg",
        ] {
            let error = parse(&format!("v1.2 1\n{line}\n"), Path::new("x.idx"))
                .unwrap_err()
                .to_string();
            assert!(error.contains("x.idx line 2"), "{error}");
        }
        assert!(parse("v1.1 0\n", Path::new("x.idx")).is_err());
    }

    #[test]
    fn an_index_of_another_shard_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        let mut writer = TarWriter::new(Vec::new());
        writer.append("a.jpg", &[1; 700]).unwrap();
        std::fs::write(&path, writer.finish().unwrap()).unwrap();
        let shard = RandomFile::open(&path, IoMode::Mmap).unwrap();

        let scanned = load(&shard).unwrap();
        std::fs::write(path_of(&path), to_text(&scanned)).unwrap();
        assert_eq!(load(&shard).unwrap(), scanned);
        for stale in [
            "jpg 512 701 a.jpg",
            "jpg 1024 700 a.jpg",
            "jpg 10240 1 a.jpg",
            "jpg 512 18446744073709551615 a.jpg",
        ] {
            std::fs::write(path_of(&path), format!("v1.2 1\n{stale}\n")).unwrap();
            assert!(load(&shard).is_err(), "{stale}");
        }
    }
}
