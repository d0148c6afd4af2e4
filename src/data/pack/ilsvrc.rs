//! ImageNet's archives as they are downloaded, scanned in place.

use std::path::Path;

use rayon::prelude::*;

use crate::data::file::{IoMode, RandomFile};
use crate::data::image_files::image_name;
use crate::data::tar::{Member, scan};
use crate::error::{Error, Result};

use super::labels;
use super::progress::{Count, PackProgress, Tell};
use super::sources::{Found, Listing, Place, check_classes, open_archive};

/// Position in `Listing::archives`.
const TRAIN: usize = 0;
const VALIDATION: usize = 1;

/// Lists the images of both archives. Class index = rank of the wnid in byte order.
pub(super) fn list(train: &Path, val: &Path, val_labels: &Path, tell: Tell) -> Result<Listing> {
    let archives = vec![open_archive(train)?, open_archive(val)?];
    // Headers lie far apart. Through a map the system would bring in whatever lies between them: the whole archive.
    let train_headers = RandomFile::open(train, IoMode::Pread)?;
    let val_headers = RandomFile::open(val, IoMode::Pread)?;
    let classes = class_archives(&train_headers)?;
    let names: Vec<String> = classes.iter().map(|(wnid, _)| wnid.clone()).collect();
    check_classes(&names, train)?;

    let count = Count::new(classes.len(), |done, total| {
        tell(PackProgress::Listed { done, total })
    });
    let images: Vec<_> = classes
        .par_iter()
        .enumerate()
        .map(|(label, (wnid, member))| {
            class_images(&train_headers, wnid, member, label as u32).inspect(|_| count.one_more())
        })
        .collect::<Result<_>>()?;
    let validation = validation_images(&val_headers, val_labels, &names)?;
    Ok(Listing {
        name: "imagenet1k".to_string(),
        classes: names,
        train: images.into_iter().flatten().collect(),
        validation,
        unusable: Vec::new(),
        archives,
    })
}

/// The archives in the archive, sorted by wnid: they need not lie in order.
fn class_archives(archive: &RandomFile) -> Result<Vec<(String, Member)>> {
    let members = scan(archive, 0..archive.len()).whole(archive.path())?;
    let mut classes = Vec::new();
    for member in members {
        let name = file_name(&member.name);
        if name.starts_with('.') {
            continue;
        }
        let Some(wnid) = name.strip_suffix(".tar") else {
            return Err(Error::invalid_hint(
                archive.path().display(),
                "an archive of one .tar for each class, as ILSVRC2012_img_train.tar is",
                format_args!("a member called {}", member.name),
                "unpack it and use --images",
            ));
        };
        classes.push((wnid.to_string(), member));
    }
    classes.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(classes)
}

fn class_images(archive: &RandomFile, wnid: &str, class: &Member, label: u32) -> Result<Vec<Found>> {
    let members = scan(archive, class.offset..class.offset + class.size).whole(archive.path())?;
    let found: Vec<Found> = members
        .into_iter()
        .filter_map(|member| {
            let (stem, _) = image_name(file_name(&member.name))?;
            let source = format!("{}: {wnid}.tar: {}", archive.name(), member.name);
            Some(archived(TRAIN, &member, label, stem, source))
        })
        .collect();
    if found.is_empty() {
        let what = format!(
            "{}, {wnid}.tar at byte {}",
            archive.path().display(),
            class.offset
        );
        return Err(Error::invalid_hint(
            what,
            "at least one image",
            "none",
            "download the archive again",
        ));
    }
    Ok(found)
}

/// The images in the order of their names, which is the order of a label file that only lists wnids; the archive's
/// own order means nothing.
fn validation_images(archive: &RandomFile, val_labels: &Path, classes: &[String]) -> Result<Vec<Found>> {
    let mut members = scan(archive, 0..archive.len()).whole(archive.path())?;
    members.retain(|member| image_name(file_name(&member.name)).is_some());
    members.sort_by(|a, b| file_name(&a.name).cmp(file_name(&b.name)));
    let stems: Vec<&str> = members
        .iter()
        .map(|member| image_name(file_name(&member.name)).map_or("", |(stem, _)| stem))
        .collect();
    let labels = labels::read(val_labels, &stems, classes)?;
    let found = members
        .iter()
        .zip(&stems)
        .zip(labels)
        .map(|((member, stem), label)| {
            archived(
                VALIDATION,
                member,
                label,
                stem,
                format!("{}: {}", archive.name(), member.name),
            )
        });
    Ok(found.collect())
}

fn archived(archive: usize, member: &Member, label: u32, stem: &str, source: String) -> Found {
    Found {
        label,
        wanted_key: stem.to_string(),
        source,
        place: Place::Archived {
            archive,
            offset: member.offset,
        },
        size: member.size,
    }
}

fn file_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}
