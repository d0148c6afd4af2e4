//! Archives in the layout of ImageNet's.

use std::path::{Path, PathBuf};

use verydeep::data::manifest::Manifest;
use verydeep::data::pack::{Source, pack};
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::data::tar::TarWriter;

use super::{contents, options, png, samples, verified, write};

/// Small archives in the layout of ImageNet's: (train, val).
fn imagenet(root: &Path) -> (PathBuf, PathBuf) {
    let archive = |members: &[(String, Vec<u8>)]| {
        let mut writer = TarWriter::new(Vec::new());
        for (name, bytes) in members {
            writer.append(name, bytes).unwrap();
        }
        writer.finish().unwrap()
    };
    let class = |wnid: &str, seed: u64| {
        let images: Vec<_> = (0..4)
            .map(|i| (format!("{wnid}_{}.JPEG", 40 - 9 * i), png(seed + i)))
            .collect();
        (format!("{wnid}.tar"), archive(&images))
    };
    let train = archive(&[
        class("n02105855", 10),
        class("n01440764", 20),
        class("n01443537", 30),
    ]);
    let val: Vec<_> = [3u64, 1, 2]
        .iter()
        .map(|i| (format!("ILSVRC2012_val_{i:08}.JPEG"), png(50 + i)))
        .collect();
    write(root, "ILSVRC2012_img_train.tar", &train);
    write(root, "ILSVRC2012_img_val.tar", &archive(&val));
    (
        root.join("ILSVRC2012_img_train.tar"),
        root.join("ILSVRC2012_img_val.tar"),
    )
}

#[test]
fn imagenets_archives_are_packed_in_place_with_any_label_file() {
    let root = tempfile::tempdir().unwrap();
    let (train, val) = imagenet(root.path());
    let label_files = [
        ("synsets.txt", "n02105855\nn01440764\nn01443537\n"),
        (
            "val.txt",
            "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\nILSVRC2012_val_00000003.JPEG 1\n",
        ),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000003,n01443537 1 2 3 4 \n\
             ILSVRC2012_val_00000001,n02105855 1 2 3 4\nILSVRC2012_val_00000002,n01440764 1 2 3 4\n",
        ),
    ];
    let mut packed = Vec::new();
    for (name, text) in label_files {
        write(root.path(), name, text.as_bytes());
        let out = root.path().join(format!("from {name}"));
        let source = Source::Ilsvrc {
            train: train.clone(),
            val: val.clone(),
            val_labels: root.path().join(name),
        };
        let report = pack(&source, &out, &options(), &|_| ()).unwrap();
        assert_eq!(
            (report.samples.train, report.samples.validation, report.classes),
            (12, 3, 3)
        );
        assert!(report.renamed.is_empty() && report.bad.is_empty());
        assert_eq!(report.odd.len(), 15, "PNGs that pose as JPEGs");
        packed.push(contents(&out));
        assert!(verified(&out).bad.is_empty());
    }
    assert!(packed[0] == packed[1] && packed[1] == packed[2]);

    let out = root.path().join("from synsets.txt");
    assert!(out.join("imagenet1k-train-0000.tar").exists());
    let manifest = Manifest::load(&out).unwrap();
    assert_eq!(manifest.classes, ["n01440764", "n01443537", "n02105855"]);
    let train = samples(&out, Split::Train, IoMode::Mmap);
    assert_eq!(train["n02105855_31"], (2, png(11)));
    assert_eq!(train["n01440764_13"], (0, png(23)));
    let validation = Dataset::open(&out, Split::Validation, IoMode::Mmap).unwrap();
    let labels: Vec<_> = (0..3).map(|i| (validation.key(i), validation.label(i))).collect();
    let expected = [
        ("ILSVRC2012_val_00000001", 2),
        ("ILSVRC2012_val_00000002", 0),
        ("ILSVRC2012_val_00000003", 1),
    ];
    assert_eq!(labels, expected);
}
