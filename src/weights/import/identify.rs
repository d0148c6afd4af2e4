//! Which network some arrays are of.

use std::path::Path;

use super::{TRUNK, other_head};
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Network, Spec};

/// Name and shape of an array.
type Shape = (String, Vec<usize>);

/// The network whose parameters have exactly these names and shapes, `wanted` or any. Errors name the first array that
/// differs from `wanted`, and the configuration that the arrays do fit.
pub(in crate::weights) fn identify(path: &Path, shapes: &[Shape], wanted: Option<Config>) -> Result<Spec> {
    let unknown = || unknown(path, shapes);
    let base = numbers(shapes).ok_or_else(unknown)?;
    let fitting = Config::all().find_map(|config| fit(&base, config, shapes));
    let Some(wanted) = wanted else {
        return fitting.ok_or_else(unknown);
    };
    if let Some(spec) = fit(&base, wanted, shapes) {
        return Ok(spec);
    }
    let network = Spec {
        config: wanted,
        ..base
    }
    .build()?;
    Err(difference(path, shapes, &network).unwrap_or_else(unknown))
}

/// What is wrong with arrays that are to be of `network`: the first that differs, and what they do fit.
pub(in crate::weights) fn difference(path: &Path, shapes: &[Shape], network: &Network) -> Option<Error> {
    let (what, expected, found) = first_difference(network, shapes)?;
    let fitting =
        numbers(shapes).and_then(|numbers| Config::all().find_map(|config| fit(&numbers, config, shapes)));
    let hint = fitting.map_or("they fit no configuration".into(), |spec| flags(&spec));
    let place = format!("{}: {what}", path.display());
    Some(Error::invalid_hint(place, expected, found, hint))
}

/// Which weights these are, in the words of the command line.
fn flags(spec: &Spec) -> String {
    let norm = if spec.batch_norm { " --batch-norm" } else { "" };
    let Spec {
        config,
        width,
        fc,
        crop,
        classes,
        ..
    } = spec;
    match spec.extent {
        Extent::Whole => {
            format!(
                "they fit --config {config}{norm} --width {width} --fc {fc} --crop {crop}, with {classes} classes"
            )
        }
        Extent::Trunk => format!(
            "they are the convolutions of --config {config}{norm} --width {width} alone; --init-from takes them"
        ),
    }
}

/// What the shapes say whatever the configuration; of a trunk, where there are convolutions alone.
fn numbers(shapes: &[Shape]) -> Option<Spec> {
    let dims = |wanted: &str| {
        let found = shapes.iter().find(|(name, _)| name == wanted);
        found.map(|(_, dims)| dims.as_slice())
    };
    let width = *dims("features.0.weight")?.first()? as f64 / 64.0;
    if shapes.iter().all(|(name, _)| name.starts_with(TRUNK)) {
        return Some(Spec {
            width,
            ..Spec::trunk(Config::D)
        });
    }
    let (&[fc, inputs], &[classes, _]) = (dims("classifier.0.weight")?, dims("classifier.6.weight")?) else {
        return None;
    };
    let last = ((512.0 * width).round() as usize).max(1);
    let side = (inputs / last).isqrt();
    let spec = Spec {
        classes,
        crop: 32 * side,
        width,
        fc,
        ..Spec::paper(Config::D)
    };
    (side * side * last == inputs).then_some(spec)
}

/// A configuration with these numbers, without batch norm or with it, if it has exactly these arrays.
fn fit(numbers: &Spec, config: Config, shapes: &[Shape]) -> Option<Spec> {
    let spec = |batch_norm| Spec {
        config,
        batch_norm,
        ..numbers.clone()
    };
    let is_it = |spec: &Spec| {
        spec.build()
            .is_ok_and(|network| first_difference(&network, shapes).is_none())
    };
    [false, true].map(spec).into_iter().find(is_it)
}

/// No configuration fits; the convolutions alone may fit one.
fn unknown(path: &Path, shapes: &[Shape]) -> Error {
    let mut trunk = shapes.to_vec();
    trunk.retain(|(name, _)| name.starts_with(TRUNK));
    let others = shapes.len() - trunk.len();
    let fitting = numbers(&trunk)
        .filter(|_| others > 0)
        .and_then(|numbers| Config::all().find_map(|config| fit(&numbers, config, &trunk)));
    match fitting {
        Some(spec) => other_head(path, spec.config, format_args!("{others} other arrays")),
        None => Error::invalid_hint(
            path.display(),
            "the arrays of a VGG network under torchvision's names",
            format_args!("{} other arrays", shapes.len()),
            "verydeep inspect shows what a file holds",
        ),
    }
}

/// The first array of the network that is not there, or not in its shape; else an array too many.
fn first_difference(network: &Network, shapes: &[Shape]) -> Option<(String, String, String)> {
    for parameter in &network.parameters {
        let layer = &network.layers[parameter.layer].name;
        let what = format!("array {} (layer {layer})", parameter.name);
        let expected = format!("shape {:?}", parameter.dims);
        match shapes.iter().find(|(name, _)| *name == parameter.name) {
            Some((_, dims)) if *dims == parameter.dims => {}
            Some((_, dims)) => return Some((what, expected, format!("shape {dims:?}"))),
            None => return Some((what, expected, "no such array".into())),
        }
    }
    let counted = |name: &str| name.ends_with("num_batches_tracked"); // PyTorch's counter
    let known = |name: &str| network.parameters.iter().any(|p| p.name == name);
    let extra = shapes.iter().find(|(name, _)| !known(name) && !counted(name));
    extra.map(|(name, dims)| (format!("array {name}"), "none".into(), format!("shape {dims:?}")))
}
