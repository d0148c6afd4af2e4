//! `verydeep convert`.

use std::path::Path;

use serde_json::json;

use super::args::{ConvertArgs, FromArg, ToArg};
use super::networks::open_model;
use super::output::{print_json, say};
use crate::error::{Error, Result};
use crate::network::Extent;
use crate::weights::{Format, Model, write_onnx, write_safetensors};

pub(super) fn convert(args: &ConvertArgs) -> Result<u8> {
    let to = match args.to {
        Some(to) => to,
        None => format_of_name(&args.output)?,
    };
    check_folder(&args.output)?;
    let model = read(args)?;
    match to {
        ToArg::Safetensors => write_safetensors(&args.output, &model)?,
        ToArg::Onnx => write_onnx(&args.output, &model)?,
    }
    if args.json {
        print_json(&json!({
            "config": model.spec.config.name(),
            "batch_norm": model.spec.batch_norm,
            "extent": model.spec.extent,
            "classes": model.spec.classes,
            "crop": model.spec.crop,
            "parameters": model.network.parameter_count(),
            "weights_sha256": model.weights_sha256,
        }));
        return Ok(0);
    }
    let norm = if model.spec.batch_norm {
        " with batch norm"
    } else {
        ""
    };
    let classes = match model.spec.extent {
        Extent::Whole => format!("{} classes", model.spec.classes),
        Extent::Trunk => "its convolutions alone".into(),
    };
    say(format_args!(
        "{}: net {}{norm}, {classes}, crop {}, {} parameters, to {}",
        args.input.display(),
        model.spec.config,
        model.spec.crop,
        model.network.parameter_count(),
        args.output.display(),
    ));
    say(format_args!("weights_sha256 {}", model.weights_sha256));
    Ok(0)
}

/// A run's folder, or a file: ours say what they are, others are told by their content or by `--from`.
fn read(args: &ConvertArgs) -> Result<Model> {
    let from = args.from.map(|from| match from {
        FromArg::Torch => Format::Torch,
        FromArg::Safetensors => Format::Safetensors,
        FromArg::Onnx => Format::Onnx,
        FromArg::Caffe => Format::Caffe,
    });
    if from.is_none() && args.input.is_dir() {
        let model = open_model(&args.input)?;
        model.check_config(&args.input, args.config)?;
        return if args.trunk { model.trunk() } else { Ok(model) };
    }
    let extent = if args.trunk { Extent::Trunk } else { Extent::Whole };
    Model::import_part(&args.input, from, args.config, extent)
}

/// Refuses, before anything is read, to write into a folder that is not there.
fn check_folder(output: &Path) -> Result<()> {
    match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Error::invalid_hint(
            output.display(),
            "a file in a folder that exists",
            format_args!("no folder {}", folder.display()),
            "make the folder first",
        )),
        _ => Ok(()),
    }
}

fn format_of_name(path: &Path) -> Result<ToArg> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => Ok(ToArg::Safetensors),
        Some("onnx") => Ok(ToArg::Onnx),
        _ => Err(Error::Usage(format!(
            "convert: expected OUT to end in .safetensors or .onnx, or --to; found {}",
            path.display()
        ))),
    }
}
