//! A folder of images, packed and read back.

use std::fs;
use std::path::Path;

use verydeep::Error;
use verydeep::data::decode::Decoder;
use verydeep::data::loader::OnBad;
use verydeep::data::manifest::Manifest;
#[cfg(feature = "turbojpeg")]
use verydeep::data::manifest::Stored;
use verydeep::data::pack::PackOptions;
#[cfg(feature = "turbojpeg")]
use verydeep::data::preprocess::Exif;
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::data::verify::{holds_shards, inspect};

#[cfg(feature = "turbojpeg")]
use super::golden_image;
use super::{contents, options, pack_folder, photos, png, samples, verified, write};

#[test]
fn what_is_packed_is_read_back() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    let report = pack_folder(&images, &out, &options()).unwrap();
    assert_eq!(
        (
            report.samples.train,
            report.samples.validation,
            report.shards,
            report.classes
        ),
        (33, 6, 5, 3)
    );
    assert!(
        report.bad.is_empty() && report.odd.is_empty() && report.renamed.is_empty(),
        "{report:?}"
    );
    let files: Vec<String> = contents(&out).into_keys().collect();
    let mut expected: Vec<String> = vec!["_info.json".into(), "manifest.json".into()];
    for shard in [
        "train-0000",
        "train-0001",
        "train-0002",
        "train-0003",
        "validation-0000",
    ] {
        expected.extend([format!("photos-{shard}.idx"), format!("photos-{shard}.tar")]);
    }
    assert_eq!(files, expected);

    for io in [IoMode::Mmap, IoMode::Pread] {
        for (split, folder, count) in [(Split::Train, "train", 33), (Split::Validation, "val", 6)] {
            let samples = samples(&out, split, io);
            assert_eq!(samples.len(), count);
            for (key, (label, bytes)) in samples {
                let (class, name) = key.split_once('_').unwrap();
                assert_eq!(["cat", "dog", "eel"][label as usize], class);
                assert_eq!(
                    bytes,
                    fs::read(images.join(format!("{folder}/{class}/{name}.png"))).unwrap()
                );
            }
        }
    }
    let dataset = Dataset::open(&out, Split::Train, IoMode::Mmap).unwrap();
    let first: Vec<u32> = (0..10).map(|i| dataset.label(i)).collect();
    assert!(
        (0..3).all(|class| first.contains(&class)),
        "the first shard holds {first:?}"
    );
    let validation = Dataset::open(&out, Split::Validation, IoMode::Mmap).unwrap();
    assert!((1..6).all(|i| validation.key(i - 1) < validation.key(i)));

    let verified = verified(&out);
    assert_eq!((verified.samples, verified.shards), (39, 5));
    assert!(verified.bad.is_empty() && verified.odd.is_empty(), "{verified:?}");
    let summary = serde_json::to_value(inspect(&out).unwrap()).unwrap();
    assert_eq!(
        (&summary["samples"], &summary["shards"], &summary["classes"]),
        (&39.into(), &5.into(), &3.into())
    );
    assert_eq!(summary["data_sha256"], report.data_sha256);
    assert!(holds_shards(&out) && holds_shards(&out.join("photos-train-0000.tar")) && !holds_shards(&images));
}

#[test]
fn the_same_images_give_the_same_bytes_on_any_number_of_threads() {
    let root = tempfile::tempdir().unwrap();
    let images = photos(root.path());
    write(&images, "train/cat/not an image.png", b"nothing");
    let pack_on = |threads: usize, name: &str, options: PackOptions| {
        let out = root.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| pack_folder(&images, &out, &options)).unwrap();
        contents(&out)
    };
    let once = pack_on(1, "once", options());
    assert!(once == pack_on(3, "twice", options()));
    assert!(
        once != pack_on(2, "other", PackOptions { seed: 2, ..options() }),
        "the seed has no effect"
    );
}

#[test]
fn mean_and_identity_are_those_of_the_training_pixels() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    let report = pack_folder(&images, &out, &options()).unwrap();
    let (mut sums, mut pixels) = ([0u64; 3], 0u64);
    let (mut decoder, mut rgb) = (Decoder::new(), Vec::new());
    for (_, bytes) in samples(&out, Split::Train, IoMode::Mmap).into_values() {
        decoder.decode(&bytes, &mut rgb).unwrap();
        for pixel in rgb.chunks_exact(3) {
            pixels += 1;
            (0..3).for_each(|c| sums[c] += u64::from(pixel[c]));
        }
    }
    for (found, sum) in report.mean_rgb.iter().zip(sums) {
        assert!((found - sum as f64 / pixels as f64).abs() < 1e-8);
    }
    let manifest = Manifest::load(&out).unwrap();
    assert_eq!(manifest.mean_rgb, report.mean_rgb);
    assert_eq!(manifest.pca_rgb, report.pca_rgb);
    assert_eq!(manifest.sha256(), report.data_sha256);
}

#[test]
fn bad_images_are_named_and_left_out_or_end_it() {
    let root = tempfile::tempdir().unwrap();
    let images = photos(root.path());
    write(&images, "train/dog/empty.jpg", b"");
    write(&images, "train/dog/text.jpg", b"this is no image");
    write(&images, "val/eel/cut.png", &png(7)[..60]);
    write(&images, "train/cat/Bild 1.5.JPEG", &png(8));
    let out = root.path().join("shards");
    let report = pack_folder(&images, &out, &options()).unwrap();
    assert_eq!((report.samples.train, report.samples.validation), (34, 6));
    let mut bad: Vec<&str> = report.bad.iter().map(|bad| bad.shard.as_str()).collect();
    bad.sort_unstable();
    assert_eq!(
        bad,
        ["train/dog/empty.jpg", "train/dog/text.jpg", "val/eel/cut.png"]
    );
    assert_eq!(
        report.odd.len(),
        1,
        "a PNG that poses as a JPEG: {:?}",
        report.odd
    );
    assert_eq!(report.renamed[0].key, "cat_Bild%201%2E5");
    let (_, bytes) = &samples(&out, Split::Train, IoMode::Mmap)["cat_Bild%201%2E5"];
    assert_eq!(bytes, &png(8));
    assert!(verified(&out).bad.is_empty());

    let before = names_in(root.path());
    let strict = PackOptions {
        on_bad: OnBad::Fail,
        ..options()
    };
    match pack_folder(&images, &root.path().join("strict"), &strict) {
        Err(Error::BadData { bad: 2, first, .. }) => {
            assert!(first.shard.starts_with("train/dog/"), "{first}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names_in(root.path()), before, "nothing is left behind");
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_destination_in_use_is_refused_and_an_empty_one_taken() {
    let root = tempfile::tempdir().unwrap();
    let images = photos(root.path());
    let out = root.path().join("shards");
    write(&out, "notes.txt", b"mine");
    assert!(matches!(
        pack_folder(&images, &out, &options()),
        Err(Error::Invalid(_))
    ));
    assert_eq!(contents(&out).len(), 1);
    assert!(matches!(
        pack_folder(&images, &out.join("notes.txt"), &options()),
        Err(Error::Invalid(_))
    ));
    fs::remove_file(out.join("notes.txt")).unwrap();
    pack_folder(&images, &out, &options()).unwrap();
    pack_folder(&images, &root.path().join("new/deeper/shards"), &options()).unwrap();
    assert!(matches!(
        pack_folder(
            &images,
            &root.path().join("x"),
            &PackOptions {
                shard_size: 0,
                ..options()
            }
        ),
        Err(Error::Invalid(_))
    ));
}

#[cfg(feature = "turbojpeg")]
#[test]
fn large_images_are_reduced_on_request() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    let stored = Stored::Reencoded {
        max_short: 16,
        quality: 90,
    };
    let report = pack_folder(
        &images,
        &out,
        &PackOptions {
            images: stored,
            ..options()
        },
    )
    .unwrap();
    assert!(report.bad.is_empty());
    assert_eq!(Manifest::load(&out).unwrap().images, stored);
    let (mut decoder, mut reduced) = (Decoder::new(), 0);
    for (_, bytes) in samples(&out, Split::Train, IoMode::Mmap).into_values() {
        let header = decoder.header(&bytes).unwrap();
        assert!(header.width.min(header.height) <= 16);
        reduced += usize::from(bytes.starts_with(b"\xff\xd8"));
    }
    assert!((1..33).contains(&reduced), "{reduced} of 33 were larger");
    assert!(verified(&out).bad.is_empty());
}

#[cfg(feature = "turbojpeg")]
#[test]
fn what_is_encoded_again_says_how_the_camera_was_held() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (root.path().join("photos"), root.path().join("shards"));
    for (name, file) in [("turned", "orientation-6.jpg"), ("upright", "420.jpg")] {
        write(&images, &format!("train/cat/{name}.jpg"), &golden_image(file));
    }
    let reduced = PackOptions {
        images: Stored::Reencoded {
            max_short: 20,
            quality: 90,
        },
        ..options()
    };
    pack_folder(&images, &out, &reduced).unwrap();
    let packed = samples(&out, Split::Train, IoMode::Mmap);
    let size = |key: &str, exif| {
        let header = Decoder::with_exif(exif).header(&packed[key].1).unwrap();
        (header.width, header.height)
    };
    let (width, height) = size("cat_turned", Exif::Ignore);
    assert!(width.min(height) == 20 && width != height);
    assert_eq!(size("cat_turned", Exif::Apply), (height, width));
    assert_eq!(
        size("cat_upright", Exif::Apply),
        size("cat_upright", Exif::Ignore)
    );
}

#[cfg(feature = "turbojpeg")]
#[test]
fn what_decodes_in_part_is_kept_with_a_remark() {
    let root = tempfile::tempdir().unwrap();
    let (images, out) = (photos(root.path()), root.path().join("shards"));
    let pixels: Vec<u8> = (0..64 * 64 * 3u32).map(|i| (i * i % 253) as u8).collect();
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image {
        pixels: &pixels[..],
        width: 64,
        pitch: 64 * 3,
        height: 64,
        format,
    };
    let jpeg = turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).unwrap();
    write(&images, "train/cat/cut.jpg", &jpeg[..jpeg.len() / 2]);

    let report = pack_folder(&images, &out, &options()).unwrap();
    assert_eq!((report.samples.train, report.bad.len()), (34, 0));
    assert_eq!(report.odd[0].shard, "train/cat/cut.jpg");
    let verified = verified(&out);
    assert!(verified.bad.is_empty(), "it was so from the start: {verified:?}");
    assert_eq!(verified.odd[0].key, "cat_cut");

    // The same bytes in a shard of unknown origin are damage.
    let shard = root.path().join("x.tar");
    let mut writer = verydeep::data::tar::TarWriter::new(fs::File::create(&shard).unwrap());
    writer.append("cut.cls", b"0").unwrap();
    writer.append("cut.jpg", &jpeg[..jpeg.len() / 2]).unwrap();
    writer.finish().unwrap();
    assert_eq!(super::verified(&shard).bad[0].key, "cut");
}
