//! `verydeep inspect`: what is in a file or folder.

use std::path::Path;

use serde_json::{Value, json};

use super::args::PathArgs;
use super::networks::open_model;
use super::output::{print_json, say};
use crate::data::verify;
use crate::error::Result;
use crate::weights::RunFolder;

pub(super) fn inspect(args: &PathArgs) -> Result<u8> {
    let found = if is_weights(&args.path) {
        weights(&args.path)?
    } else {
        json!(verify::inspect(&args.path)?)
    };
    if args.json {
        print_json(&found);
    } else {
        say(args.path.display());
        show(&found, 1);
    }
    Ok(0)
}

/// A run folder, a checkpoint or a weights file, as opposed to shards.
fn is_weights(path: &Path) -> bool {
    if path.is_dir() {
        let run = RunFolder::new(path);
        return run.checkpoints().is_dir() || run.recipe().is_file();
    }
    path.extension()
        .is_some_and(|extension| extension == "safetensors")
}

fn weights(path: &Path) -> Result<Value> {
    let model = open_model(path)?;
    let (about, meta) = (model.about.as_ref(), model.meta.as_ref());
    Ok(json!({
        "config": model.spec.config.name(),
        "batch_norm": model.spec.batch_norm,
        "extent": model.spec.extent,
        "classes": model.spec.classes,
        "class_names": about.map(|about| &about.class_names),
        "crop": model.spec.crop,
        "width": model.spec.width,
        "fc": model.spec.fc,
        "parameters": model.network.parameter_count(),
        "scale": about.map(|about| about.scale),
        "step": meta.map(|m| m.step),
        "epoch": meta.map(|m| m.epoch),
        "weights_sha256": model.weights_sha256,
        "state_sha256": meta.map(|m| &m.state_sha256),
        "preprocess": about.map(|about| &about.preprocess),
        "recipe": meta.map(|m| &m.recipe),
        "class": meta.map(|m| &m.class),
    }))
}

/// Indented `name: value` lines; long lists on one line each.
fn show(value: &Value, depth: usize) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let indent = "  ".repeat(depth);
        match value {
            Value::Null => {}
            Value::Object(_) => {
                say(format_args!("{indent}{name}:"));
                show(value, depth + 1);
            }
            Value::String(text) => say(format_args!("{indent}{name}: {text}")),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                say(format_args!("{indent}{name}: {value}"))
            }
        }
    }
}
