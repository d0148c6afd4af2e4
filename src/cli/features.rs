//! `verydeep features`.

use std::io::{Write, stdin};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{FeaturesArgs, ScalesArg};
use super::compute::on_device;
use super::networks::{about_of, check_output, name_bad, open_model, resources};
use super::output::{print_json, say};
use crate::data::image_files::images_below;
use crate::durable::write_atomically;
use crate::error::{Error, Result};
use crate::eval::{AcrossScales, Features, Files, WantedFeatures, features as compute};
use crate::text;
use crate::weights::{Array, Model, write_arrays};

pub(super) fn features(args: &FeaturesArgs) -> Result<u8> {
    args.compute.check()?;
    let resources = resources(args.batch, &args.compute)?;
    let write = writer(&args.out)?;
    check_output(&args.out)?;
    let files = Files::new(images(&args.images)?, stdin())?;
    let model = open_model(&args.weights)?;
    let about = about_of(&model, &args.weights)?;
    let wanted = wanted(args, &model);
    let found = on_device!(&args.compute.open()?, backend => {
        let found = compute(backend, &model, &about.preprocess, &files, &wanted, resources);
        found.map_err(Error::of_network(&args.weights))?
    });
    name_bad(&found.kept);
    write(&args.out, &found)?;
    if args.json {
        print_json(&json!({
            "files": files.paths().iter().map(|path| text::of_path(path)).collect::<Vec<_>>(),
            "bad": found.kept,
            "features": found.len,
            "layer": wanted.layer,
            "protocol": wanted.protocol.name(),
            "scales": wanted.scales,
            "out": text::of_path(&args.out),
            "weights_sha256": model.weights_sha256,
        }));
    } else {
        let (images, len) = (files.paths().len(), found.len);
        say(format_args!(
            "{images} images, {len} features each, to {}",
            args.out.display()
        ));
    }
    Ok(0)
}

fn wanted(args: &FeaturesArgs, model: &Model) -> WantedFeatures {
    WantedFeatures {
        layer: args.layer.clone(),
        protocol: args.protocol.into(),
        scales: match args.scales.as_slice() {
            [] => vec![model.scale()],
            said => said.to_vec(),
        },
        flip: args.flip,
        across: match args.across_scales {
            ScalesArg::Average => AcrossScales::Average,
            ScalesArg::Stack => AcrossScales::Stack,
        },
        normalise: !args.raw,
    }
}

type Writer = fn(&Path, &Features) -> Result<()>;

/// How the file is written, by its name.
fn writer(path: &Path) -> Result<Writer> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy") => Ok(write_npy),
        Some("safetensors") => Ok(write_safetensors),
        _ => Err(Error::Usage(format!(
            "--out: expected a name that ends in .npy or .safetensors, found {}",
            path.display()
        ))),
    }
}

fn write_safetensors(path: &Path, features: &Features) -> Result<()> {
    let array = Array {
        name: "features".into(),
        dims: vec![features.values.len() / features.len, features.len],
        values: &features.values,
    };
    write_arrays(path, &[], &[array])
}

/// NumPy's format, version 1: a header of a multiple of 64 bytes, then the rows.
fn write_npy(path: &Path, features: &Features) -> Result<()> {
    let shape = format!("({}, {})", features.values.len() / features.len, features.len);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let before = 10 + header.len() + 1; // magic, version, length; the line's end
    header.extend(std::iter::repeat_n(' ', before.next_multiple_of(64) - before));
    header.push('\n');
    write_atomically(path, |writer| {
        writer.write_all(b"\x93NUMPY\x01\x00")?;
        writer.write_all(&(header.len() as u16).to_le_bytes())?;
        writer.write_all(header.as_bytes())?;
        features
            .values
            .iter()
            .try_for_each(|value| writer.write_all(&value.to_le_bytes()))
    })
}

/// Files as they are said (`-` is standard input); the images of folders in the order of their paths, hidden ones left out,
/// links followed as `pack` does.
pub(super) fn images(said: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for path in said {
        if path.is_dir() {
            let found = images_below(path)?;
            if found.is_empty() {
                return Err(Error::invalid(path.display(), "a folder with images", "none"));
            }
            images.extend(found.into_iter().map(|file| file.path));
        } else {
            images.push(path.clone());
        }
    }
    Ok(images)
}
