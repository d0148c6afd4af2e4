//! `verydeep convert`.

use std::path::Path;

use serde_json::json;

use super::args::{ConvertArgs, FromArg, ToArg};
use super::eval::open_model;
use super::output::{print_json, say};
use crate::error::{Error, Result};
use crate::network::Extent;
use crate::weights::{Format, Model, write_onnx, write_safetensors};

pub(super) fn convert(args: &ConvertArgs) -> Result<u8> {
    let to = match args.to {
        Some(to) => to,
        None => format_of_name(&args.output)?,
    };
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

/// Our own files say what they are; others are told by their content or by `--from`.
fn read(args: &ConvertArgs) -> Result<Model> {
    let from = args.from.map(|from| match from {
        FromArg::Torch => Format::Torch,
        FromArg::Safetensors => Format::Safetensors,
        FromArg::Onnx => Format::Onnx,
        FromArg::Caffe => Format::Caffe,
    });
    if from.is_none() && is_ours(&args.input)? {
        let model = open_model(&args.input)?;
        return match args.config {
            Some(config) if config != model.spec.config => Err(Error::invalid_hint(
                args.input.display(),
                format_args!("weights of configuration {config}"),
                format_args!("weights of configuration {}", model.spec.config),
                "leave --config out",
            )),
            _ if args.trunk => model.trunk(),
            _ => Ok(model),
        };
    }
    let extent = if args.trunk { Extent::Trunk } else { Extent::Whole };
    Model::import_part(&args.input, from, args.config, extent)
}

/// Whether a path is a run folder or a file that says what it holds.
fn is_ours(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(true);
    }
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 16), &mut start)
        .map_err(Error::io("read", path))?;
    Ok(Format::of(path, &start)? == Format::Safetensors && crate::weights::load(path)?.about.is_some())
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
