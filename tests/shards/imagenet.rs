//! Archives in the layout of ImageNet's.

use std::path::{Path, PathBuf};

use verydeep::data::manifest::Manifest;
#[cfg(feature = "turbojpeg")]
use verydeep::data::pack::{PackOptions, PackProgress};
use verydeep::data::pack::{Source, pack};
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::data::tar::TarWriter;

use super::{contents, golden_image, options, png, samples, verified, write};

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

/// Archives in which `copies` of each odd and each ordinary file of ImageNet's kinds occur.
pub(crate) fn with_odd_files(root: &Path, copies: usize) -> Source {
    let archive = |members: Vec<(String, Vec<u8>)>| {
        let mut writer = TarWriter::new(Vec::new());
        for (name, bytes) in &members {
            writer.append(name, bytes).unwrap();
        }
        writer.finish().unwrap()
    };
    let files = [
        "420.jpg",
        "422-progressive.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "palette.png",
    ];
    let images = |wnid: &str| -> Vec<(String, Vec<u8>)> {
        let names = (0..copies * files.len()).map(|i| (i, files[i % files.len()]));
        names
            .map(|(i, file)| (format!("{wnid}_{i}.JPEG"), golden_image(file)))
            .collect()
    };
    let mut first = images("n01440764");
    first.push((
        "n01440764_9999.JPEG".into(),
        golden_image("420.jpg")[..20].to_vec(),
    ));
    let classes = vec![
        ("n01440764.tar".to_string(), archive(first)),
        ("n01443537.tar".to_string(), archive(images("n01443537"))),
    ];
    let validation = (1..=2).map(|i| (format!("ILSVRC2012_val_{i:08}.JPEG"), golden_image("444.jpg")));
    write(root, "ILSVRC2012_img_train.tar", &archive(classes));
    write(root, "ILSVRC2012_img_val.tar", &archive(validation.collect()));
    write(root, "synsets.txt", b"n01443537\nn01440764\n");
    Source::Ilsvrc {
        train: root.join("ILSVRC2012_img_train.tar"),
        val: root.join("ILSVRC2012_img_val.tar"),
        val_labels: root.join("synsets.txt"),
    }
}

#[cfg(feature = "turbojpeg")]
#[test]
fn odd_files_are_reported_and_the_bytes_do_not_depend_on_the_workers() {
    let root = tempfile::tempdir().unwrap();
    let source = with_odd_files(root.path(), 2);
    let mut packed = Vec::new();
    for workers in [1, 5] {
        let out = root.path().join(format!("{workers} workers"));
        let seen = std::sync::Mutex::new(Vec::new());
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .build()
            .unwrap();
        let progress = |at| match at {
            PackProgress::Packed { done, total, .. } => seen.lock().unwrap().push((done, total)),
            other => assert!(
                matches!(other, PackProgress::Listed { total: 2, .. }),
                "{other:?}"
            ),
        };
        let report = pool
            .install(|| pack(&source, &out, &options(), &progress))
            .unwrap();
        assert_eq!((report.samples.train, report.samples.validation), (20, 2));
        assert_eq!(seen.into_inner().unwrap(), [(21, 21), (2, 2)]);
        let count = |part: &str| report.odd.iter().filter(|odd| odd.reason.contains(part)).count();
        assert_eq!(
            (
                count("four channels"),
                count("a PNG that is called .JPEG"),
                report.odd.len()
            ),
            (4, 4, 8)
        );
        assert_eq!(
            (report.bad.len(), report.bad[0].key.as_str()),
            (1, "n01440764_9999")
        );
        assert_eq!(report.bad[0].shard, "ILSVRC2012_img_train.tar");
        packed.push(contents(&out));
    }
    assert!(packed[0] == packed[1]);

    let stored = verydeep::data::manifest::Stored::Reencoded {
        max_short: 24,
        quality: 85,
    };
    let out = root.path().join("reduced");
    let report = pack(
        &source,
        &out,
        &PackOptions {
            images: stored,
            ..options()
        },
        &|_| (),
    )
    .unwrap();
    assert_eq!((report.samples.train, report.bad.len()), (20, 1));
    let mut decoder = verydeep::data::decode::Decoder::new();
    for (key, (_, bytes)) in samples(&out, Split::Train, IoMode::Mmap) {
        let header = decoder.header(&bytes).unwrap();
        assert!(header.width.min(header.height) <= 24, "{key}: {header:?}");
    }
    assert_eq!(Manifest::load(&out).unwrap().images, stored);
}
