//! Shards without their bad samples.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::file::{IoMode, RandomFile};
use crate::data::manifest::{Note, ShardEntry, Split};
use crate::data::pack::OpenShard;
use crate::data::shard_set::ShardSet;
use crate::durable::NewFolder;
use crate::error::{Error, Result};

use super::shard::{GoodSample, data_of};
use super::{VerifyProgress, VerifyReport, check};

/// What a repair did: the object that `verify --repair OUT --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// What is wrong with the shards as they were.
    #[serde(flatten)]
    pub verified: VerifyReport,
    /// Where the shards without the bad samples are.
    #[serde(serialize_with = "crate::text::path")]
    pub repaired: PathBuf,
    /// Samples in them.
    pub kept: usize,
}

/// Verifies what is at `path`, and writes what is good of it into the new folder `out`: every member of every good
/// sample, byte for byte, in shards of the same names and in the same order, with indexes; and with a manifest where
/// there was one. Its mean and principal colours are the old ones. A shard of which nothing is left is not written.
pub fn repair(path: &Path, out: &Path, progress: &(dyn Fn(VerifyProgress) + Sync)) -> Result<RepairReport> {
    let folder = NewFolder::create(out)?;
    let mut set = ShardSet::find(path)?;
    let mut shards: Vec<ShardEntry> = Vec::new();
    let verified = check(path, &set, progress, |number, good| {
        let split = set
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.shards.get(number))
            .map_or(Split::Train, |entry| entry.split);
        shards.extend(write_shard(&set.shards[number], folder.path(), split, good)?);
        Ok(())
    })?;
    if shards.is_empty() {
        return Err(Error::invalid(path.display(), "at least one good sample", "none"));
    }
    let kept = shards.iter().map(|shard| shard.samples).sum();
    if let Some(manifest) = &mut set.manifest {
        manifest.shards = shards;
        let left_out = verified.bad.iter().filter(|bad| !bad.key.is_empty());
        manifest.left_out.extend(left_out.map(|bad| Note {
            source: bad.shard.clone(),
            key: bad.key.clone(),
            reason: bad.reason.clone(),
        }));
        manifest.save(folder.path())?;
    }
    folder.finish()?;
    Ok(RepairReport {
        verified,
        repaired: out.to_path_buf(),
        kept,
    })
}

/// Copies the good samples of a shard into one of the same name; `None` where there is none.
fn write_shard(path: &Path, folder: &Path, split: Split, good: &[GoodSample]) -> Result<Option<ShardEntry>> {
    if good.is_empty() {
        return Ok(None);
    }
    let file = RandomFile::open(path, IoMode::Mmap)?;
    let mut shard = OpenShard::create(folder.join(path.file_name().unwrap_or_default()))?;
    let mut scratch = Vec::new();
    for GoodSample { sample, label } in good {
        let mut image = Vec::new();
        for member in sample.members() {
            let data = data_of(&file, member, &mut scratch).map_err(|reason| changed(path, reason))?;
            shard.append(member.name.clone(), data)?;
            if sample.image() == Some(member) {
                image = data.to_vec();
            }
        }
        shard.end_sample(*label, &image);
    }
    file.confirm()?;
    shard.finish(split).map(Some)
}

/// It was good a moment ago.
fn changed(path: &Path, reason: String) -> Error {
    Error::invalid_hint(
        path.display(),
        "the shard that was verified",
        reason,
        "let nobody write to it meanwhile",
    )
}
