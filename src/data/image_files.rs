//! Which files are images, by their names, and where those of a folder are.

use std::collections::HashSet;
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Extensions, in lower case, of images that are decoded.
const DECODED: [&str; 7] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif"];

/// Those of images that are not: such a file is named as one that cannot be read, not passed over.
const NOT_DECODED: [&str; 3] = ["bmp", "tif", "tiff"];

/// Whether an extension, without its dot, is that of an image that is decoded.
pub fn is_decoded(extension: &str) -> bool {
    DECODED.iter().any(|image| extension.eq_ignore_ascii_case(image))
}

/// Name and extension of a visible file that is called like an image; whether it decodes is seen later.
pub fn image_name(file_name: &str) -> Option<(&str, &str)> {
    let (stem, extension) = file_name.rsplit_once('.')?;
    let is_image = is_decoded(extension)
        || NOT_DECODED
            .iter()
            .any(|image| extension.eq_ignore_ascii_case(image));
    (is_image && !stem.is_empty() && !file_name.starts_with('.')).then_some((stem, extension))
}

/// A file that is called like an image.
#[derive(Debug)]
pub struct ImageFile {
    /// Where it is.
    pub path: PathBuf,
    /// `None` for a link that leads nowhere, which is an image that cannot be read.
    pub metadata: Option<Metadata>,
}

/// The images in a folder and in those below it, in byte order folder by folder, without hidden ones. Links are followed,
/// but no folder is entered twice.
pub fn images_below(folder: &Path) -> Result<Vec<ImageFile>> {
    let mut walk = Walk::default();
    walk.enter(folder)?;
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    /// Device and inode of every folder so far.
    entered: HashSet<(u64, u64)>,
    found: Vec<ImageFile>,
}

impl Walk {
    fn enter(&mut self, folder: &Path) -> Result<()> {
        let metadata = fs::metadata(folder).map_err(Error::io("examine", folder))?;
        if !self.entered.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        for entry in sorted_entries(folder)? {
            let path = entry.path();
            let metadata = fs::metadata(&path).ok();
            if metadata.as_ref().is_some_and(Metadata::is_dir) {
                self.enter(&path)?;
            } else if metadata.as_ref().is_none_or(Metadata::is_file)
                && image_name(&entry.file_name().to_string_lossy()).is_some()
            {
                self.found.push(ImageFile { path, metadata });
            }
        }
        Ok(())
    }
}

/// What is in a folder, without hidden entries, in byte order.
pub(super) fn sorted_entries(folder: &Path) -> Result<Vec<DirEntry>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.map_err(Error::io("list", folder))?;
    entries.retain(|entry| !entry.file_name().as_bytes().starts_with(b"."));
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_names() {
        for (name, known) in [
            ("a.jpg", Some(("a", "jpg"))),
            ("a.b.PNG", Some(("a.b", "PNG"))),
            ("a.tiff", Some(("a", "tiff"))),
            (".a.jpg", None),
            (".jpg", None),
            ("a.txt", None),
            ("jpg", None),
        ] {
            assert_eq!(image_name(name), known, "{name}");
        }
        assert!(is_decoded("WebP") && is_decoded("gif") && !is_decoded("bmp") && !is_decoded("cls"));
    }
}
