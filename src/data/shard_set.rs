//! Which files a path means.

use std::fs;
use std::path::{Path, PathBuf};

use crate::data::manifest::{MANIFEST, Manifest};
use crate::error::{Error, Result};

/// Ends of file names that announce a shard. Compressed ones count, so that they are refused and not overlooked.
const SHARDS: [&str; 7] = [
    ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4",
];

/// The shards at a path.
pub(in crate::data) struct ShardSet {
    /// Of a folder that has one; its shards are then exactly these, in this order.
    pub(super) manifest: Option<Manifest>,
    pub(super) shards: Vec<PathBuf>,
}

impl ShardSet {
    pub(super) fn find(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            fs::metadata(path).map_err(Error::io("find", path))?;
            return Ok(Self {
                manifest: None,
                shards: vec![path.to_path_buf()],
            });
        }
        if path.join(MANIFEST).exists() {
            let manifest = Manifest::load(path)?;
            let shards = manifest
                .shards
                .iter()
                .map(|shard| path.join(&shard.file))
                .collect();
            return Ok(Self {
                manifest: Some(manifest),
                shards,
            });
        }
        let shards = tars(path)?;
        if shards.is_empty() {
            return Err(Error::invalid_hint(
                path.display(),
                "a folder of shards",
                "no .tar in it",
                "`verydeep pack --images DIR --out SHARDS` makes shards",
            ));
        }
        Ok(Self {
            manifest: None,
            shards,
        })
    }
}

/// Whether a path looks like shards rather than like a run or a weights file.
pub fn holds_shards(path: &Path) -> bool {
    if path.is_dir() {
        path.join(MANIFEST).exists() || tars(path).is_ok_and(|tars| !tars.is_empty())
    } else {
        path.is_file() && is_tar(path)
    }
}

/// The visible tars in a folder, in byte order.
fn tars(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut tars: Vec<PathBuf> = entries
        .map_err(Error::io("list", folder))?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| is_tar(path))
        .collect();
    tars.sort();
    Ok(tars)
}

fn is_tar(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && SHARDS.iter().any(|end| name.ends_with(end))
}
