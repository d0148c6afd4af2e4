//! Which network some arrays are of.

use std::path::Path;

use crate::error::{Error, Result};
use crate::network::{Config, Network, Spec};

/// Name and shape of an array.
type Shape = (String, Vec<usize>);

/// The network whose parameters have exactly these names and shapes, `wanted` or any. Errors name the first array that
/// differs from `wanted`, and the configuration that the arrays do fit.
pub(in crate::weights) fn identify(path: &Path, shapes: &[Shape], wanted: Option<Config>) -> Result<Spec> {
    let dims = |name: &str| {
        shapes
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, dims)| dims.as_slice())
    };
    let unknown = || {
        Error::invalid_hint(
            path.display(),
            "the arrays of a VGG network under torchvision's names",
            format_args!("{} other arrays", shapes.len()),
            "verydeep inspect shows what a file holds",
        )
    };
    let ends = ["features.0.weight", "classifier.0.weight", "classifier.6.weight"].map(dims);
    let [Some(&[channels, ..]), Some(&[fc, inputs]), Some(&[classes, _])] = ends else {
        return Err(unknown());
    };
    let width = channels as f64 / 64.0;
    let last = ((512.0 * width).round() as usize).max(1);
    let side = (inputs / last).isqrt();
    if side * side * last != inputs {
        return Err(unknown());
    }
    let spec = |config, batch_norm| Spec {
        batch_norm,
        classes,
        crop: 32 * side,
        width,
        fc,
        ..Spec::paper(config)
    };
    let fits = |config: Config| {
        [false, true]
            .into_iter()
            .map(|batch_norm| spec(config, batch_norm))
            .find(|spec| {
                spec.build()
                    .is_ok_and(|network| first_difference(&network, shapes).is_none())
            })
    };
    let fitting = Config::all().find_map(fits);
    let Some(wanted) = wanted else {
        return fitting.ok_or_else(unknown);
    };
    if let Some(spec) = fits(wanted) {
        return Ok(spec);
    }
    let network = spec(wanted, false).build()?;
    let (what, expected, found) = first_difference(&network, shapes).ok_or_else(unknown)?;
    let hint = fitting.map_or("it is of no configuration".to_string(), |spec| {
        let norm = if spec.batch_norm { " with batch norm" } else { "" };
        format!("it fits --config {}{norm}", spec.config)
    });
    Err(Error::invalid_hint(
        format_args!("{}: {what} of configuration {wanted}", path.display()),
        expected,
        found,
        hint,
    ))
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
