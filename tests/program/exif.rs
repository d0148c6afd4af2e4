//! `--exif apply`: photographs that say how the camera was held train, score and predict as the upright ones do.

use std::fs;
use std::path::Path;

use crate::images::write_folder;
use crate::tool::{hashes, run_json, run_ok, small};

/// A PNG of these pixels whose EXIF asks for `orientation`.
fn png(pixels: &[u8], width: usize, height: usize, orientation: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    // A TIFF header and one directory with one short: tag 0x0112.
    let exif = [
        b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0",
        &[orientation][..],
        &[0; 6],
    ]
    .concat();
    writer.write_chunk(png::chunk::eXIf, &exif).unwrap();
    writer.write_image_data(pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

/// The image turned a quarter to the left, which EXIF's orientation 6 turns back.
fn turn(path: &Path, orientation: u8) {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let (width, height) = (info.width as usize, info.height as usize);
    // Column x from the right becomes row x.
    let turned: Vec<u8> = (0..width)
        .flat_map(|row| (0..height).map(move |column| (column, width - 1 - row)))
        .flat_map(|(y, x)| pixels[3 * (y * width + x)..][..3].to_vec())
        .collect();
    fs::write(path, png(&turned, height, width, orientation)).unwrap();
}

fn each_image(folder: &Path, change: &dyn Fn(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_image(&path, change);
        } else {
            change(&path);
        }
    }
}

#[test]
fn turned_photographs_are_seen_as_the_upright_ones() {
    let root = tempfile::tempdir().unwrap();
    let [upright, turned] = ["upright", "turned"].map(|name| {
        let (images, shards) = (root.path().join(name), root.path().join(format!("{name}-shards")));
        write_folder(&images);
        if name == "turned" {
            each_image(&images, &|path| turn(path, 6));
        }
        run_ok([
            "pack",
            "--images",
            images.to_str().unwrap(),
            "--out",
            shards.to_str().unwrap(),
        ]);
        (images, shards.to_str().unwrap().to_string())
    });
    let train = |shards: &str, name: &str, more: &[&str]| {
        let run = root.path().join(name);
        let mut flags = small(shards, &run);
        flags.extend(["A", "--iterations", "3"]);
        flags.extend(more);
        run_ok(flags);
        run
    };
    let expected = train(&upright.1, "expected", &[]);
    let applied = train(&turned.1, "applied", &["--exif", "apply"]);
    let ignored = train(&turned.1, "ignored", &[]);
    assert_eq!(hashes(&applied).0, hashes(&expected).0);
    assert_ne!(hashes(&ignored).0, hashes(&expected).0);

    let (applied, expected) = (applied.to_str().unwrap(), expected.to_str().unwrap());
    for protocol in ["center", "dense"] {
        let eval = |shards: &str, run: &str| {
            let report = run_json(["eval", "--data", shards, "--weights", run, "--protocol", protocol]);
            (
                report["loss"].clone(),
                report["top1"].clone(),
                report["n"].clone(),
            )
        };
        assert_eq!(eval(&turned.1, applied), eval(&upright.1, expected), "{protocol}");
        assert_ne!(
            eval(&turned.1, expected).0,
            eval(&upright.1, expected).0,
            "{protocol}"
        );
    }
    let predict = |images: &Path, run: &str| {
        let image = images.join("val/class2/3.png");
        run_json(["predict", "--weights", run, image.to_str().unwrap()])["predictions"][0]["top"].clone()
    };
    assert_eq!(predict(&turned.0, applied), predict(&upright.0, expected));
}
