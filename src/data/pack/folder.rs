//! A folder of images: `train/<class>/...` and perhaps `val/<class>/...`.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::image_files::{ImageFile, image_name, images_below, sorted_entries};
use crate::error::{Error, Result};

use super::progress::{Count, PackProgress, Tell};
use super::sources::{Found, Listing, Place, Times, check_classes};

/// Lists the images below `images`. Class index = rank of the class folder's name in byte order.
pub(super) fn list(images: &Path, tell: Tell) -> Result<Listing> {
    let train = images.join("train");
    if !train.is_dir() {
        return Err(Error::invalid_hint(
            images.display(),
            "a folder with train/<class>/*.jpg, and val/<class>/*.jpg where there is a validation set",
            "no folder called train",
            "move the class folders into one called train",
        ));
    }
    let class_folders = class_folders(&train)?;
    let classes: Vec<String> = class_folders.iter().map(|(name, _)| name.clone()).collect();
    check_classes(&classes, &train)?;
    let label_of = |(class, folder): (String, PathBuf)| match classes.binary_search(&class) {
        Ok(label) => Ok((label as u32, class, folder)),
        Err(_) => Err(Error::invalid_hint(
            folder.display(),
            "a class that is in train, too",
            format_args!("{class}, which is not"),
            "add it to train or remove it from val",
        )),
    };
    let list_all = |folders: Vec<(String, PathBuf)>| {
        let folders: Vec<_> = folders.into_iter().map(label_of).collect::<Result<_>>()?;
        list_classes(images, &folders, tell)
    };
    let train = list_all(class_folders)?;
    let val = images.join("val");
    let validation = match val.exists() {
        true => list_all(self::class_folders(&val)?)?,
        false => Vec::new(),
    };
    Ok(Listing {
        name: name_of(images),
        classes,
        train,
        validation,
        unusable: Vec::new(),
        archives: Vec::new(),
    })
}

/// The images of classes with their labels, in the order of the classes, found by all threads.
fn list_classes(images: &Path, folders: &[(u32, String, PathBuf)], tell: Tell) -> Result<Vec<Found>> {
    let count = Count::new(folders.len(), |done, total| {
        tell(PackProgress::Listed { done, total })
    });
    let found: Vec<_> = folders
        .par_iter()
        .map(|(label, class, folder)| list_class(images, folder, class, *label).inspect(|_| count.one_more()))
        .collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// The visible folders in `folder`, in byte order of their names. Files between them are none of ours.
fn class_folders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut classes = Vec::new();
    for entry in sorted_entries(folder)? {
        if !entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().map_err(|name| {
            Error::invalid_hint(
                folder.display(),
                "class names in UTF-8",
                format_args!("{name:?}"),
                "rename the folder",
            )
        })?;
        classes.push((name, entry.path()));
    }
    if classes.is_empty() {
        return Err(Error::invalid(
            folder.display(),
            "a folder for each class",
            "none",
        ));
    }
    Ok(classes)
}

/// The images of one class, those in folders below it included.
fn list_class(images: &Path, folder: &Path, class: &str, label: u32) -> Result<Vec<Found>> {
    let found = images_below(folder)?;
    if found.is_empty() {
        return Err(Error::invalid_hint(
            folder.display(),
            "at least one image",
            "none",
            "remove the folder, or add images whose names end in .jpg, .png ...",
        ));
    }
    let place = Class {
        images,
        folder,
        class,
        label,
    };
    Ok(found.into_iter().filter_map(|file| place.found(file)).collect())
}

/// A class and its folder.
struct Class<'a> {
    images: &'a Path,
    folder: &'a Path,
    class: &'a str,
    label: u32,
}

impl Class<'_> {
    fn found(&self, ImageFile { path, metadata }: ImageFile) -> Option<Found> {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let (stem, extension) = image_name(&file_name)?;
        let wanted_key = if stem
            .strip_prefix(self.class)
            .is_some_and(|rest| rest.starts_with('_'))
        {
            stem.to_string() // ImageNet's own names say the class already
        } else {
            let below = path.strip_prefix(self.folder).unwrap_or(&path).to_string_lossy();
            let below = below
                .strip_suffix(extension)
                .and_then(|below| below.strip_suffix('.'))
                .unwrap_or(&below);
            format!("{}_{}", self.class, below.replace('/', "_"))
        };
        let source = path
            .strip_prefix(self.images)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        Some(Found {
            label: self.label,
            wanted_key,
            source,
            place: Place::File(path, metadata.as_ref().map(Times::of)),
            size: metadata.as_ref().map_or(0, fs::Metadata::len),
        })
    }
}

/// The folder's own name, as far as it may stand in a file name, or `images`.
pub(super) fn name_of(images: &Path) -> String {
    /// Members and shards have short names; nobody reads more of this one.
    const MAX: usize = 48;
    let whole = fs::canonicalize(images).unwrap_or_else(|_| images.to_path_buf());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(safe).take(MAX).collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "images".to_string()
    } else {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::Builder::new().prefix("my photos").tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }

    fn keys(found: &[Found]) -> Vec<(&str, u32)> {
        found
            .iter()
            .map(|found| (found.wanted_key.as_str(), found.label))
            .collect()
    }

    #[test]
    fn classes_are_numbered_in_byte_order_and_images_named_after_them() {
        let folder = folder(&[
            "train/b/2.jpg",
            "train/b/1.PNG",
            "train/B/x.jpeg",
            "train/n01/n01_7.JPEG",
            "train/n01/images/deep.webp",
            "train/n01/notes.txt",
            "train/n01/.hidden.jpg",
            "train/.cache/x.jpg",
            "train/README.jpg",
            "val/b/3.jpg",
        ]);
        let listing = list(folder.path(), &|_| ()).unwrap();
        assert!(listing.name.starts_with("my-photos"), "{}", listing.name);
        assert_eq!(listing.classes, ["B", "b", "n01"]);
        assert_eq!(
            keys(&listing.train),
            [
                ("B_x", 0),
                ("b_1", 1),
                ("b_2", 1),
                ("n01_images_deep", 2),
                ("n01_7", 2)
            ]
        );
        assert_eq!(keys(&listing.validation), [("b_3", 1)]);
        assert_eq!(listing.validation[0].source, "val/b/3.jpg");
    }

    #[test]
    fn links_are_followed_once() {
        let folder = folder(&["train/a/1.jpg", "elsewhere/2.jpg"]);
        let class = folder.path().join("train/a");
        symlink("..", class.join("up")).unwrap();
        symlink(".", class.join("self")).unwrap();
        symlink("../../elsewhere", class.join("other")).unwrap();
        symlink("../../elsewhere", class.join("same")).unwrap();
        symlink("1.jpg", class.join("link.jpg")).unwrap();
        symlink("nowhere", class.join("broken.jpg")).unwrap();
        symlink("../elsewhere", folder.path().join("train/b")).unwrap();
        let listing = list(folder.path(), &|_| ()).unwrap();
        // `up` leads to `train`, which is entered once, without `a` again and with `b`, whose folder is `elsewhere`
        // and was entered as `other`.
        assert_eq!(
            keys(&listing.train),
            [
                ("a_1", 0),
                ("a_broken", 0),
                ("a_link", 0),
                ("a_other_2", 0),
                ("b_2", 1)
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |files: &[&str]| list(folder(files).path(), &|_| ()).unwrap_err().to_string();
        assert!(refused(&["a/1.jpg"]).contains("no folder called train"));
        assert!(refused(&["train/1.jpg"]).contains("a folder for each class"));
        assert!(refused(&["train/a/1.jpg", "train/b/notes.txt"]).contains("train/b"));
        assert!(refused(&["train/a/1.jpg", "val/b/1.jpg"]).contains("b, which is not"));
        assert!(refused(&["train/a/1.jpg", "val/a/notes.txt"]).contains("val/a"));
    }
}
