//! Going on after what a `pack` that died has finished.
//!
//! A journal in the unfinished folder names the sources and options in its first record, and has a record for every
//! shard, written once the shard is on disk. Nothing of it is believed unseen: sources and options must be those of
//! now, and every shard must have the length and the hash that its record says, and the index that its archive has. What
//! is not whole, and everything after it, is packed again.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::decode::DECODER;
use crate::data::file::{IoMode, RandomFile};
use crate::data::index;
use crate::data::manifest::{ShardEntry, Split, Stored, hex};
use crate::data::resize::RESIZER;
use crate::data::tar;
use crate::durable::{Journal, NewFolder, WhenDropped};
use crate::error::{Error, Result};

use super::PackOptions;
use super::colour::ColourSums;
use super::progress::{Count, PackProgress, Tell};
use super::sources::Sources;
use super::writer::shard_file;

/// What the bytes of the shards depend on.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    version: String,
    decoder: String,
    resizer: String,
    shard_size: usize,
    seed: u64,
    images: Stored,
    sources_sha256: String,
}

impl Begun {
    fn now(sources: &Sources, options: &PackOptions) -> Result<Self> {
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            decoder: DECODER.to_string(),
            resizer: RESIZER.to_string(),
            shard_size: options.shard_size,
            seed: options.seed,
            images: options.images,
            sources_sha256: sources.sha256()?,
        })
    }

    /// What is different now, for people.
    fn difference(&self, now: &Self) -> Option<String> {
        let Self {
            version,
            decoder,
            resizer,
            shard_size,
            seed,
            images,
            sources_sha256,
        } = self;
        let program = format!("{version}; {decoder}; {resizer}");
        let present = format!("{}; {}; {}", now.version, now.decoder, now.resizer);
        if program != present {
            Some(format!(
                "they are of another program: {program}, and this is {present}"
            ))
        } else if *shard_size != now.shard_size {
            Some(format!("they were begun with --shard-size {shard_size}"))
        } else if *seed != now.seed {
            Some(format!("they were begun with --seed {seed}"))
        } else if *images != now.images {
            Some(match images {
                Stored::Original => "they were begun without --max-short".to_string(),
                Stored::Reencoded { max_short, quality } => {
                    format!("they were begun with --max-short {max_short} --quality {quality}")
                }
            })
        } else if *sources_sha256 != now.sources_sha256 {
            Some("they are of other images, or these have changed since".to_string())
        } else {
            None
        }
    }
}

/// A shard that is whole, and what was learnt on the way to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) shard: ShardEntry,
    /// Images of the split that were looked at up to here, in the order of packing.
    pub(super) looked_at: usize,
    pub(super) learnt: Learnt,
}

/// What is learnt from images besides what is in their shard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Learnt {
    /// Of the training images among them.
    pub(super) colours: ColourSums,
    pub(super) odd: Vec<Remark>,
    pub(super) left_out: Vec<Remark>,
}

/// What there is to say about an image.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Remark {
    /// Its position in the order of packing.
    pub(super) position: usize,
    pub(super) reason: String,
}

/// What is done already.
pub(super) struct Done {
    /// To be gone on with.
    pub(super) journal: Journal,
    /// Whole shards, training first, each split without a gap from its first.
    pub(super) finished: Vec<Finished>,
}

/// Adds a finished shard to the journal. From here on the folder is worth keeping.
pub(super) fn record(journal: &mut Journal, folder: &mut NewFolder, finished: &Finished) -> Result<()> {
    journal.append(&to_json(finished, &folder.journal())?)?;
    folder.when_dropped(WhenDropped::Stays);
    Ok(())
}

/// Finds what is whole in an unfinished folder, and removes everything else.
pub(super) fn take_over(
    folder: &mut NewFolder,
    sources: &Sources,
    options: &PackOptions,
    tell: Tell,
) -> Result<Done> {
    let path = folder.journal();
    let now = Begun::now(sources, options)?;
    let mut records = Journal::read(&path)?;
    let (finished, reason) = believed(&records, &now, folder.path(), sources, tell);
    // The first is `Begun`.
    records.truncate(if finished.is_empty() {
        0
    } else {
        finished.len() + 1
    });
    let mut journal = Journal::open(&path, &records)?;
    if records.is_empty() {
        folder.when_dropped(WhenDropped::Removed);
        journal.append(&to_json(&now, &path)?)?;
    }

    let mut used: HashSet<OsString> = path.file_name().map(OsString::from).into_iter().collect();
    for Finished { shard, .. } in &finished {
        used.insert(OsString::from(&shard.file));
        used.insert(index::path_of(Path::new(&shard.file)).into());
    }
    let mut not_used = 0;
    folder.keep_only(|name| {
        let is_used = used.contains(name);
        let is_shard = Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "tar");
        not_used += usize::from(is_shard && !is_used);
        is_used
    })?;
    if not_used > 0 {
        tell(PackProgress::NotUsed {
            shards: not_used,
            reason,
        });
    }
    if !finished.is_empty() {
        let last = |split| finished.iter().rfind(|finished| finished.shard.split == split);
        let images = Split::ALL.map(|split| last(split).map_or(0, |finished| finished.looked_at));
        tell(PackProgress::TakenOver {
            shards: finished.len(),
            images: images.iter().sum(),
        });
    }
    Ok(Done { journal, finished })
}

/// The shards of a journal that are whole, up to the first that is not, and why what else there may be is not used.
fn believed(
    records: &[String],
    now: &Begun,
    folder: &Path,
    sources: &Sources,
    tell: Tell,
) -> (Vec<Finished>, String) {
    let unknown = || "their journal does not say that they are whole".to_string();
    let Some((first, records)) = records.split_first() else {
        return (Vec::new(), unknown());
    };
    let difference = match serde_json::from_str::<Begun>(first) {
        Ok(begun) => begun.difference(now),
        Err(error) => Some(format!("their journal begins with {first}: {error}")),
    };
    if let Some(difference) = difference {
        return (Vec::new(), difference);
    }
    let mut finished: Vec<Finished> = Vec::new();
    for record in records {
        match serde_json::from_str(record) {
            Ok(next) if follows(&finished, &next, sources) => finished.push(next),
            Ok(_) | Err(_) => break,
        }
    }
    let count = Count::new(finished.len(), |done, total| {
        tell(PackProgress::Checked { done, total })
    });
    let damaged = finished
        .par_iter()
        .enumerate()
        .find_map_first(|(number, finished)| {
            let checked = check_whole(folder, &finished.shard);
            count.one_more();
            checked.err().map(|reason| (number, reason))
        });
    match damaged {
        None => (finished, unknown()),
        Some((number, reason)) => {
            finished.truncate(number);
            (finished, reason)
        }
    }
}

/// Whether a record can be the next one of its split.
fn follows(before: &[Finished], next: &Finished, sources: &Sources) -> bool {
    let Finished {
        shard,
        looked_at,
        learnt,
    } = next;
    let same_split = || before.iter().filter(|before| before.shard.split == shard.split);
    let start = same_split().next_back().map_or(0, |before| before.looked_at);
    let mut remarks = learnt.odd.iter().chain(&learnt.left_out);
    shard.file == shard_file(&sources.name, shard.split, same_split().count())
        && (start + 1..=sources.items(shard.split).len()).contains(looked_at)
        && remarks.all(|remark| (start..*looked_at).contains(&remark.position))
        && shard.labels.len() == shard.samples
        && shard.crc32.len() == shard.samples
}

/// Reads a shard and its index again; the error says what is wrong.
fn check_whole(folder: &Path, shard: &ShardEntry) -> Result<(), String> {
    let path = folder.join(&shard.file);
    let file = RandomFile::open(&path, IoMode::Mmap).map_err(|error| error.to_string())?;
    let bytes = file.len();
    let sha256 = file
        .read(0..bytes, &mut Vec::new())
        .map(|bytes| hex(&Sha256::digest(bytes)))
        .and_then(|sha256| file.confirm().map(|()| sha256))
        .map_err(|error| error.to_string())?;
    if bytes != shard.bytes || sha256 != shard.sha256 {
        return Err(format!(
            "{}: expected {} bytes with SHA-256 {}, found {bytes} bytes with {sha256}",
            shard.file, shard.bytes, shard.sha256
        ));
    }
    let index_path = index::path_of(&path);
    let expected = index::to_text(&index::group(tar::scan(&file, 0..bytes).members));
    match std::fs::read(&index_path) {
        Ok(found) if found == expected.as_bytes() => Ok(()),
        Ok(_) => Err(format!("{} is not its index", index_path.display())),
        Err(error) => Err(Error::io("read", &index_path)(error).to_string()),
    }
}

fn to_json(record: &impl Serialize, path: &Path) -> Result<String> {
    serde_json::to_string(record)
        .map_err(std::io::Error::from)
        .map_err(Error::io("encode", path))
}
