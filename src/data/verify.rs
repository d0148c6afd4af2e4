//! Looking at shards, whoever made them: everything about them, or a summary.

mod repair;
mod shard;
mod summary;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::data::manifest::{INFO, Manifest};
use crate::data::shard_set::ShardSet;
use crate::error::{BadSample, Result};

use shard::{GoodSample, ShardCheck};

pub use crate::data::shard_set::holds_shards;
pub use repair::{RepairReport, repair};
pub use summary::{PackedSummary, ShardSummary, inspect};

/// How far verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Shards that are done.
    pub done: usize,
    /// Shards that there are.
    pub total: usize,
    /// Samples in those that are done.
    pub samples: usize,
}

/// What is wrong with shards: the object that `verify --json` prints.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Samples that were found, bad ones included.
    pub samples: usize,
    /// Shards, unreadable ones included.
    pub shards: usize,
    /// Samples that cannot be used, and whatever else is wrong; where that is no single sample, the key is empty.
    pub bad: Vec<BadSample>,
    /// Samples about which something is odd, as it was when they were packed.
    pub odd: Vec<BadSample>,
}

/// Reads every byte and decodes every image of a shard folder, of a folder of tars without a manifest, or of one
/// tar. Only what keeps it from starting is an error: an unreadable shard is among the bad.
pub fn verify(path: &Path, progress: &(dyn Fn(VerifyProgress) + Sync)) -> Result<VerifyReport> {
    check(path, &ShardSet::find(path)?, progress, |_, _| Ok(()))
}

/// Verifies the shards at `path`, one after the other; `each` is given the number and the good samples of every one.
fn check(
    path: &Path,
    set: &ShardSet,
    progress: &(dyn Fn(VerifyProgress) + Sync),
    mut each: impl FnMut(usize, &[GoodSample]) -> Result<()>,
) -> Result<VerifyReport> {
    let known_odd: HashSet<&str> = set
        .manifest
        .iter()
        .flat_map(|manifest| &manifest.odd)
        .map(|note| note.key.as_str())
        .collect();
    let mut report = VerifyReport {
        shards: set.shards.len(),
        ..VerifyReport::default()
    };
    if let Some(manifest) = &set.manifest {
        report.bad.extend(check_info(path, manifest));
    }
    for (i, shard) in set.shards.iter().enumerate() {
        let check = ShardCheck {
            path: shard,
            entry: set.manifest.as_ref().and_then(|manifest| manifest.shards.get(i)),
            classes: set.manifest.as_ref().map(|manifest| manifest.classes.len()),
            known_odd: &known_odd,
        };
        let findings = check.run();
        each(i, &findings.good)?;
        report.samples += findings.samples;
        report.bad.extend(findings.bad);
        report.odd.extend(findings.odd);
        progress(VerifyProgress {
            done: i + 1,
            total: set.shards.len(),
            samples: report.samples,
        });
    }
    Ok(report)
}

/// `_info.json` must say what the manifest says.
fn check_info(folder: &Path, manifest: &Manifest) -> Option<BadSample> {
    let reason = match fs::read(folder.join(INFO)) {
        Ok(text) => match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(info) if info == manifest.info() => return None,
            Ok(_) => {
                "expected the splits, files and shard_lengths of manifest.json, found others".to_string()
            }
            Err(error) => format!("expected JSON: {error}"),
        },
        Err(error) => format!("cannot be read: {error}"),
    };
    Some(BadSample {
        shard: INFO.to_string(),
        offset: 0,
        key: String::new(),
        reason,
    })
}
