//! Everything about one shard.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::decode::Decoder;
use crate::data::file::{IoMode, RandomFile};
use crate::data::index::{self, Sample};
use crate::data::manifest::{ShardEntry, hex};
use crate::data::shards::check_crc;
use crate::data::tar::{self, BLOCK, Member};
use crate::error::BadSample;

/// One shard and what is known about it.
pub(super) struct ShardCheck<'a> {
    pub(super) path: &'a Path,
    /// From the manifest.
    pub(super) entry: Option<&'a ShardEntry>,
    /// How many classes there are.
    pub(super) classes: Option<usize>,
    /// Keys of samples that were odd when they were packed.
    pub(super) known_odd: &'a HashSet<&'a str>,
}

/// What was found.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) samples: usize,
    pub(super) good: Vec<GoodSample>,
    pub(super) bad: Vec<BadSample>,
    pub(super) odd: Vec<BadSample>,
}

/// A sample that can be used, and its class.
pub(super) struct GoodSample {
    pub(super) sample: Sample,
    pub(super) label: u32,
}

/// Whether the whole file is what the manifest says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    AsPacked,
    Changed,
    /// There is no manifest.
    Unknown,
}

/// Which samples a shard holds.
struct Structure {
    samples: Vec<Sample>,
    /// What the index says, where it says something else although the archive looks whole.
    listed: Option<Vec<Sample>>,
}

/// What decodes, with its class, and what is odd about it.
struct Usable {
    label: u32,
    /// It decodes in part.
    warning: Option<String>,
}

impl ShardCheck<'_> {
    /// Never fails: what is wrong is among the findings.
    pub(super) fn run(&self) -> Findings {
        let mut findings = Findings::default();
        let file = match RandomFile::open(self.path, IoMode::Mmap) {
            Ok(file) => file,
            Err(error) => {
                findings.bad.push(self.remark(0, "", error));
                return findings;
            }
        };
        let Structure { mut samples, listed } = self.structure(&file, &mut findings.bad);
        let (content, mut outcomes) = rayon::join(
            || self.content(&file, &mut findings.bad),
            || self.outcomes(&file, &samples),
        );
        // Of an archive that was changed, its index is the better witness.
        if content == Content::Changed
            && let Some(listed) = listed
        {
            outcomes = self.outcomes(&file, &listed);
            samples = listed;
        }
        if let Some(entry) = self.entry.filter(|entry| entry.samples != samples.len()) {
            let reason = format!(
                "expected {} samples, as the manifest says, found {}",
                entry.samples,
                samples.len()
            );
            findings.bad.push(self.remark(0, "", reason));
        }
        if let Err(error) = file.confirm() {
            findings.bad.push(self.remark(0, "", error));
        }
        findings.samples = samples.len();
        let mut keys = HashSet::new();
        for (sample, outcome) in samples.into_iter().zip(outcomes) {
            let key = sample.key().to_string();
            let offset = sample.image().unwrap_or(&sample.members()[0]).offset;
            let usable = match outcome {
                Ok(_) if keys.contains(&key) => Err("the key occurs twice in this shard".to_string()),
                outcome => outcome,
            };
            match usable {
                Err(reason) => findings.bad.push(self.remark(offset, &key, reason)),
                Ok(Usable { label, warning }) => {
                    let known = self.is_as_packed(content) && self.known_odd.contains(key.as_str());
                    let part = warning.map(|part| format!("decodes only in part: {part}"));
                    let remark = part.map(|reason| self.remark(offset, &key, reason));
                    match remark {
                        Some(remark) if !known => findings.bad.push(remark),
                        remark => {
                            findings.odd.extend(remark);
                            findings.good.push(GoodSample { sample, label });
                        }
                    }
                }
            }
            keys.insert(key);
        }
        findings
    }

    /// Whether a sample that passed every check has the bytes that were packed.
    fn is_as_packed(&self, content: Content) -> bool {
        content == Content::AsPacked || self.entry.is_some_and(|entry| !entry.crc32.is_empty())
    }

    /// The samples, after comparing archive, index and manifest with each other. Where the archive is damaged, the
    /// index still leads to the samples behind the damage.
    fn structure(&self, file: &RandomFile, bad: &mut Vec<BadSample>) -> Structure {
        let scan = tar::scan(file, 0..file.len());
        let mut samples = index::group(scan.members);
        let mut listed = None;
        let index_path = index::path_of(self.path);
        let index = match fs::read_to_string(&index_path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                bad.push(self.remark(
                    0,
                    "",
                    format_args!("{}: cannot be read: {error}", index_path.display()),
                ));
                None
            }
        };
        if let Some(damage) = scan.damage {
            let mut reason = format!("expected {}, found {}", damage.expected, damage.found);
            if !damage.hint.is_empty() {
                reason = format!("{reason}; {}", damage.hint);
            }
            bad.push(self.remark(damage.offset, "", reason));
            if let Some(listed) = index.and_then(|text| index::parse(&text, &index_path).ok()) {
                samples = listed;
            }
        } else if let Some(text) = index
            && let Some(difference) = first_difference(&text, &index::to_text(&samples))
        {
            bad.push(self.remark(0, "", format_args!("{} {difference}", index_path.display())));
            listed = index::parse(&text, &index_path).ok();
        }
        Structure { samples, listed }
    }

    /// What becomes of each sample, in order.
    fn outcomes(&self, file: &RandomFile, samples: &[Sample]) -> Vec<Result<Usable, String>> {
        let check = |checker: &mut Checker, (i, sample)| checker.check(self, file, i, sample);
        let samples = samples.par_iter().enumerate();
        samples.map_init(Checker::default, check).collect()
    }

    /// Compares length and hash with the manifest.
    fn content(&self, file: &RandomFile, bad: &mut Vec<BadSample>) -> Content {
        let Some(entry) = self.entry else {
            return Content::Unknown;
        };
        let found = match file.read(0..file.len(), &mut Vec::new()) {
            Ok(bytes) => hex(&Sha256::digest(bytes)),
            Err(error) => error.to_string(),
        };
        if file.len() == entry.bytes && found == entry.sha256 {
            return Content::AsPacked;
        }
        let reason = format!(
            "expected {} bytes with SHA-256 {}, as the manifest says, found {} bytes with {found}; copy the shard again",
            entry.bytes,
            entry.sha256,
            file.len()
        );
        bad.push(self.remark(0, "", reason));
        Content::Changed
    }

    fn remark(&self, offset: u64, key: &str, reason: impl ToString) -> BadSample {
        let shard = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        BadSample {
            shard,
            offset,
            key: key.to_string(),
            reason: reason.to_string(),
        }
    }

    /// The class index must be there, be one, and be what the manifest says.
    fn check_class(&self, file: &RandomFile, position: usize, sample: &Sample) -> Result<u32, String> {
        let class = sample
            .class()
            .ok_or("expected a .cls member with the class index, found none")?;
        let mut scratch = Vec::new();
        let text = String::from_utf8_lossy(data_of(file, class, &mut scratch)?);
        let label = text.trim().parse::<u32>().ok();
        let in_range = label.filter(|&label| self.classes.is_none_or(|classes| (label as usize) < classes));
        let Some(label) = in_range else {
            let limit = self
                .classes
                .map_or(String::new(), |classes| format!(" below {classes}"));
            return Err(format!(
                "expected a class index{limit} in the .cls member, found {text:.40?}"
            ));
        };
        match self.entry.and_then(|entry| entry.labels.get(position)) {
            Some(&expected) if expected != label => Err(format!(
                "expected class {expected}, as the manifest says, found {label} in the .cls member"
            )),
            Some(_) | None => Ok(label),
        }
    }
}

/// Checks samples, one after the other; one per thread.
#[derive(Default)]
struct Checker {
    decoder: Decoder,
    rgb: Vec<u8>,
}

impl Checker {
    fn check(
        &mut self,
        shard: &ShardCheck,
        file: &RandomFile,
        position: usize,
        sample: &Sample,
    ) -> Result<Usable, String> {
        let image = sample
            .image()
            .ok_or("expected a jpg, png, webp or gif member, found none")?;
        let mut scratch = Vec::new();
        let bytes = data_of(file, image, &mut scratch)?;
        let crc32 = shard.entry.and_then(|entry| entry.crc32.get(position).copied());
        check_crc(crc32, bytes)?;
        let decoded = self
            .decoder
            .decode(bytes, &mut self.rgb)
            .map_err(|error| error.to_string())?;
        Ok(Usable {
            label: shard.check_class(file, position, sample)?,
            warning: decoded.warning,
        })
    }
}

/// The data of a member, if its header is where it must be.
pub(super) fn data_of<'a>(
    file: &'a RandomFile,
    member: &Member,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], String> {
    let end = member.offset.saturating_add(member.size);
    let bytes = file
        .read(member.offset - BLOCK..end, scratch)
        .map_err(|error| error.to_string())?;
    let (header, data) = bytes.split_at(BLOCK as usize);
    member.check_header(header)?;
    Ok(data)
}

/// Where an index stops saying what the archive says.
fn first_difference(found: &str, expected: &str) -> Option<String> {
    if found == expected {
        return None;
    }
    let (mut found, mut expected) = (found.lines(), expected.lines());
    for line in 1.. {
        match (found.next(), expected.next()) {
            (None, None) => break,
            (found, expected) if found != expected => {
                let text =
                    |line: Option<&str>| line.map_or("its end".to_string(), |line| format!("{line:.120?}"));
                return Some(format!(
                    "line {line}: expected {}, found {}",
                    text(expected),
                    text(found)
                ));
            }
            _ => {}
        }
    }
    Some("differs in its line ends".to_string())
}
