//! The classes of ImageNet's validation images, from any of the three files that people have.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};

/// The label of every image. `stems` are the images' names without extension, sorted; `classes` are sorted wnids.
///
/// - A wnid a line: the n-th line belongs to the n-th image by name.
/// - Caffe's `val.txt`, `ILSVRC2012_val_00000001.JPEG 65`: the number is the rank of the wnid, which is our index.
/// - Kaggle's `LOC_val_solution.csv`, `ILSVRC2012_val_00048981,n03995372 85 1 499 272 ...`, in no order.
///
/// The devkit's `ILSVRC2012_validation_ground_truth.txt` has a bare number a line. It counts classes in another
/// order, so taking it would train well and evaluate at chance: it is refused.
pub(super) fn read(path: &Path, stems: &[&str], classes: &[String]) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse(&text, path, stems, classes)
}

fn parse(text: &str, path: &Path, stems: &[&str], classes: &[String]) -> Result<Vec<u32>> {
    let file = LabelFile { path, classes };
    let lines: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    let first: Vec<&str> = lines
        .first()
        .map_or("", |(_, line)| *line)
        .split_ascii_whitespace()
        .collect();
    match first[..] {
        [header, ..] if header.starts_with("ImageId,") => {
            let rows = lines[1..].iter().map(|&(number, line)| {
                let (name, boxes) = line
                    .split_once(',')
                    .ok_or_else(|| file.refuse(number, "name,wnid ...", line))?;
                Ok((
                    name,
                    file.rank(number, boxes.split_ascii_whitespace().next().unwrap_or(""))?,
                ))
            });
            file.by_name(rows, stems)
        }
        [_, index] if index.parse::<u32>().is_ok() => {
            let rows = lines.iter().map(|&(number, line)| {
                let (name, index) = line
                    .rsplit_once([' ', '\t'])
                    .ok_or_else(|| file.refuse(number, "name and class index", line))?;
                Ok((name.trim_end(), file.index(number, index)?))
            });
            file.by_name(rows, stems)
        }
        [number] if number.parse::<u32>().is_ok() => Err(Error::invalid_hint(
            path.display(),
            "wnids, Caffe's val.txt or Kaggle's CSV",
            "bare numbers, as in the devkit's ground truth, whose classes are in another order",
            "take one of the other three, or translate the numbers to wnids with the devkit's meta.mat",
        )),
        _ => {
            let labels: Vec<u32> = lines
                .iter()
                .map(|&(number, line)| file.rank(number, line))
                .collect::<Result<_>>()?;
            file.check_count(labels.len(), stems.len())?;
            Ok(labels)
        }
    }
}

struct LabelFile<'a> {
    path: &'a Path,
    classes: &'a [String],
}

impl LabelFile<'_> {
    fn refuse(&self, line: usize, expected: &str, found: &str) -> Error {
        Error::invalid(
            format_args!("{} line {line}", self.path.display()),
            expected,
            format_args!("{found:.80?}"),
        )
    }

    fn rank(&self, line: usize, wnid: &str) -> Result<u32> {
        let rank = self.classes.binary_search_by(|class| class.as_str().cmp(wnid));
        rank.map(|rank| rank as u32)
            .map_err(|_| self.refuse(line, "the wnid of a training class", wnid))
    }

    fn index(&self, line: usize, index: &str) -> Result<u32> {
        let in_range = index
            .parse::<u32>()
            .ok()
            .filter(|&index| (index as usize) < self.classes.len());
        let expected = || format!("a class index below {}", self.classes.len());
        in_range.ok_or_else(|| self.refuse(line, &expected(), index))
    }

    fn check_count(&self, labels: usize, images: usize) -> Result<()> {
        if labels == images {
            return Ok(());
        }
        let found = format!("{labels} labels for {images} images");
        Err(Error::invalid_hint(
            self.path.display(),
            "one label for each validation image",
            found,
            "the file belongs to other images, or the archive is not whole",
        ))
    }

    fn by_name<'a>(
        &self,
        rows: impl Iterator<Item = Result<(&'a str, u32)>>,
        stems: &[&str],
    ) -> Result<Vec<u32>> {
        let mut labels = HashMap::new();
        for row in rows {
            let (name, label) = row?;
            let file = name.rsplit('/').next().unwrap_or(name);
            labels.insert(file.split_once('.').map_or(file, |(stem, _)| stem), label);
        }
        self.check_count(labels.len(), stems.len())?;
        let label = |stem: &&str| {
            labels.get(stem).copied().ok_or_else(|| {
                Error::invalid(self.path.display(), format_args!("a label for {stem}"), "none")
            })
        };
        stems.iter().map(label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEMS: [&str; 3] = [
        "ILSVRC2012_val_00000001",
        "ILSVRC2012_val_00000002",
        "ILSVRC2012_val_00000003",
    ];

    fn labels(text: &str) -> Result<Vec<u32>> {
        let classes = ["n01440764", "n01443537", "n02105855"].map(String::from);
        parse(text, Path::new("labels.txt"), &STEMS, &classes)
    }

    #[test]
    fn the_three_kinds_are_told_apart_and_agree() {
        let wnids = "n02105855\nn01440764\r\nn01443537\n\n";
        let caffe = "ILSVRC2012_val_00000003.JPEG 1\nval/ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG\t0\n";
        let kaggle = "ImageId,PredictionString\n\
                      ILSVRC2012_val_00000002,n01440764 85 1 499 272 \n\
                      ILSVRC2012_val_00000003,n01443537 1 2 3 4 n01443537 5 6 7 8\n\
                      ILSVRC2012_val_00000001,n02105855 0 0 1 1\n";
        for text in [wnids, caffe, kaggle] {
            assert_eq!(labels(text).unwrap(), [2, 0, 1], "{text}");
        }
    }

    #[test]
    fn the_devkits_other_order_is_refused() {
        let error = labels("490\n361\n171\n").unwrap_err().to_string();
        assert!(error.contains("another order"), "{error}");
    }

    #[test]
    fn wrong_files_are_refused() {
        for (text, part) in [
            ("", "0 labels for 3 images"),
            ("n02105855\nn01440764\n", "2 labels for 3 images"),
            ("n02105855\nn01440764\nn99999999\n", "labels.txt line 3"),
            ("ILSVRC2012_val_00000001.JPEG 3\n", "below 3"),
            ("ILSVRC2012_val_00000001.JPEG 1\nx\n", "labels.txt line 2"),
            (
                "a.JPEG 1\nb.JPEG 1\nc.JPEG 1\n",
                "a label for ILSVRC2012_val_00000001",
            ),
            (
                "ImageId,PredictionString\nILSVRC2012_val_00000001\n",
                "labels.txt line 2",
            ),
        ] {
            let error = labels(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
