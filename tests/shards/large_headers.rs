//! Small files that say they are huge images are refused by their headers, without memory for the image.

use std::path::Path;
use std::process::Command;

use verydeep::data::decode::Decoder;

/// Of an image that libjpeg can just address; its pixels would be 13 GB.
const SIDE: u16 = 65_500;

/// Most bytes that a refusal may cost.
const MOST: u64 = 1 << 20;

/// A file of the fuzz targets' corpus, which ends with the choice of a window.
fn seed(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus/jpeg")
        .join(name);
    let bytes = std::fs::read(path).unwrap();
    bytes[..bytes.len() - 8].to_vec()
}

/// A JPEG whose frame header says `SIDE` twice.
fn huge(name: &str) -> Vec<u8> {
    let mut bytes = seed(name);
    let frame = bytes
        .windows(2)
        .position(|pair| matches!(pair, [0xff, 0xc0..=0xc2]))
        .unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&SIDE.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&SIDE.to_be_bytes());
    bytes
}

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let kilobytes: u64 = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kilobytes * 1024
}

#[test]
fn an_image_of_65500_x_65500_is_refused_within_a_megabyte() {
    const ALONE: &str = "VERYDEEP_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own: other tests would count.
        let name = "large_headers::an_image_of_65500_x_65500_is_refused_within_a_megabyte";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads", "1"])
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let files = ["420.jpg", "444.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"];
    let mut decoder = Decoder::new();
    let mut rgb = Vec::new();
    for name in files {
        decoder.decode(&seed(name), &mut rgb).unwrap();
    }
    let huge = files.map(huge);
    let before = ["VmHWM", "VmPeak"].map(status);
    for file in &huge {
        let said = decoder.decode(file, &mut rgb).unwrap_err().to_string();
        assert!(said.contains("65500 x 65500"), "{said}");
    }
    let after = ["VmHWM", "VmPeak"].map(status);
    for (before, after) in before.iter().zip(after) {
        assert!(after - before < MOST, "{} bytes more", after - before);
    }
}
