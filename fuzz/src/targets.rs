//! What is fuzzed: each target hands its input to the function that the program calls, and checks what must hold of
//! what comes back.
//!
//! `tests/fuzz.rs` of the program includes this file and `repair.rs`, to run the corpora through them.

use std::path::Path;

use verydeep::data::decode::{self, DecodeError, Decoder, Header, Region, Window};
use verydeep::data::file::RandomFile;
use verydeep::data::manifest::Manifest;
use verydeep::data::preprocess::Exif;
use verydeep::data::{index, tar as archive};
use verydeep::network::Extent;
use verydeep::parallel::control;
use verydeep::train::{Recipe, log as run_log};
use verydeep::weights::{Format, Model};

/// Must return, whatever the input.
pub type Target = fn(&[u8]);

/// All of them by name, each with its corpus under `corpus/`.
pub const ALL: [(&str, Target); 12] = [
    ("tar", tar),
    ("idx", idx),
    ("manifest", manifest),
    ("jpeg", jpeg),
    ("checkpoint", checkpoint),
    ("recipe", recipe),
    ("log", log),
    ("pth", pth),
    ("safetensors", safetensors),
    ("caffemodel", caffemodel),
    ("onnx", onnx),
    ("wire", wire),
];

/// The job's token in the corpus of `wire`.
pub const TOKEN: u64 = 0x0123_4567_89ab_cdef;

/// Members lie within the archive, and what is found is grouped into samples.
pub fn tar(data: &[u8]) {
    let file = RandomFile::in_memory(Path::new("x.tar"), data.to_vec());
    let found = archive::scan(&file, 0..file.len());
    for member in &found.members {
        assert!(member.offset + member.size <= file.len(), "{member:?}");
        let header = &data[(member.offset - archive::BLOCK) as usize..member.offset as usize];
        let _ = member.check_header(header);
    }
    for sample in index::group(found.members) {
        assert!(
            !sample.members().is_empty() && sample.members().iter().all(|m| m.name.starts_with(sample.key()))
        );
    }
}

/// An index beside a shard of three blocks; what is read is written as it was read.
pub fn idx(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let shard = RandomFile::in_memory(Path::new("x.tar"), SHARD.to_vec());
    let _ = index::load_from(text, &shard);
    if let Ok(samples) = index::parse(text, Path::new("x.idx")) {
        let again = index::parse(&index::to_text(&samples), Path::new("x.idx"));
        assert_eq!(again.expect("our own index"), samples);
    }
}

/// The archive that the corpus of `idx` is of.
const SHARD: &[u8] = include_bytes!("../corpus/tar/ustar.tar");

/// What is read is the same data set when it is written again.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data, Path::new("manifest.json")) {
        let text = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        let again = Manifest::parse(&text, Path::new("manifest.json")).expect("our own manifest");
        assert_eq!(again.sha256(), manifest.sha256());
    }
}

/// An image of any format, turned as its EXIF wants. The last eight bytes choose a window; its pixels are those of the
/// whole image, where nothing is odd about it. What we decode of a JPEG ourselves is what libjpeg-turbo makes of it.
pub fn jpeg(data: &[u8]) {
    let Some((bytes, numbers)) = data.split_last_chunk::<8>() else {
        return;
    };
    let mut decoder = Decoder::with_exif(Exif::Apply);
    let mut library = Decoder::with_library(Exif::Apply);
    let header = decoder.header(bytes);
    assert_eq!(header, library.header(bytes));
    let Ok(Header { width, height, .. }) = header else {
        return;
    };
    if width * height > MOST_PIXELS {
        return;
    }
    let number =
        |at: usize, most: usize| usize::from(u16::from_le_bytes([numbers[at], numbers[at + 1]])) % most;
    let (x, y) = (number(0, width), number(2, height));
    let wanted = Region {
        x,
        y,
        width: 1 + number(4, width - x),
        height: 1 + number(6, height - y),
    };
    let all = Region::whole(width, height);
    let part = region(&mut decoder, bytes, wanted);
    let whole = region(&mut decoder, bytes, all);
    if header.is_ok_and(|header| header.format == decode::Format::Jpeg) {
        assert!(
            part == region(&mut library, bytes, wanted),
            "{wanted:?} of {width} x {height}"
        );
        assert!(whole == region(&mut library, bytes, all), "{width} x {height}");
    }
    let (Ok((None, part)), Ok((None, whole))) = (part, whole) else {
        return;
    };
    let len = 3 * wanted.width;
    for (row, ours) in part.chunks_exact(len).enumerate() {
        let theirs = &whole[3 * ((y + row) * width + x)..][..len];
        assert!(ours == theirs, "row {row} of {wanted:?} of {width} x {height}");
    }
}

/// The warning and the wanted pixels of an image.
fn region(
    decoder: &mut Decoder,
    bytes: &[u8],
    wanted: Region,
) -> Result<(Option<String>, Vec<u8>), DecodeError> {
    let mut rgb = Vec::new();
    let image = decoder.open(bytes)?;
    let Window { region, warning } = decoder.decode_region(image, wanted, &mut rgb)?;
    assert!(region.x <= wanted.x && region.y <= wanted.y && rgb.len() == 3 * region.width * region.height);
    let rows = rgb.chunks_exact(3 * region.width).skip(wanted.y - region.y);
    let first = 3 * (wanted.x - region.x);
    let pixels = rows
        .take(wanted.height)
        .flat_map(|row| &row[first..first + 3 * wanted.width])
        .copied()
        .collect();
    Ok((warning, pixels))
}

/// Larger images are decoded as smaller ones are, only for longer.
const MOST_PIXELS: usize = 1 << 16;

/// A checkpoint or weights file as `--weights` reads it.
pub fn checkpoint(data: &[u8]) {
    if let Ok(model) = Model::open_from(Path::new("x.safetensors"), data.to_vec()) {
        assert!(model.weights.len() == model.network.flat_len());
    }
}

/// What is read is the same recipe when it is written again.
pub fn recipe(data: &[u8]) {
    let path = Path::new("recipe.toml");
    let Ok(recipe) = std::str::from_utf8(data)
        .map_err(|_| ())
        .and_then(|t| Recipe::parse(t, path).map_err(|_| ()))
    else {
        return;
    };
    let again = Recipe::parse(&recipe.to_toml(), path).expect("our own recipe");
    assert_eq!(again.sha256(), recipe.sha256());
    if recipe.check().is_ok() {
        let _ = (
            recipe.total_steps(1 << 20),
            recipe.update_rule(),
            recipe.test_views(),
        );
        let _ = recipe.spec(1000).build();
    }
}

/// The log of a run that resumes is cut behind a whole line.
pub fn log(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = run_log::parse_log(text, Path::new("log.jsonl"));
    }
    let keep = run_log::end_of_step(data, 2).expect("memory can be read") as usize;
    assert!(keep == 0 || data[keep - 1] == b'\n');
    run_log::parse_log(
        std::str::from_utf8(&data[..keep]).expect("text"),
        Path::new("log.jsonl"),
    )
    .expect("what is kept is whole");
}

/// PyTorch's zip and pickle.
pub fn pth(data: &[u8]) {
    import(data, Format::Torch);
}

/// Other programs' safetensors.
pub fn safetensors(data: &[u8]) {
    import(data, Format::Safetensors);
}

/// Caffe's files.
pub fn caffemodel(data: &[u8]) {
    import(data, Format::Caffe);
}

/// ONNX graphs.
pub fn onnx(data: &[u8]) {
    import(data, Format::Onnx);
}

fn import(data: &[u8], format: Format) {
    for extent in [Extent::Whole, Extent::Trunk] {
        let Ok(model) = Model::import_from(Path::new("x"), data, Some(format), None, extent) else {
            continue;
        };
        // However a file is written, numbers have two bytes at least.
        assert!(2 * model.network.parameter_count() <= data.len() as u64);
    }
}

/// Messages are the same however they are cut.
pub fn wire(data: &[u8]) {
    let cut = data.len() / 2;
    let whole = control::heard(&[data], TOKEN);
    let (names, error) = control::heard(&[&data[..cut], &data[cut..]], TOKEN);
    assert_eq!(names, whole.0);
    assert_eq!(error.is_some(), whole.1.is_some());
}
