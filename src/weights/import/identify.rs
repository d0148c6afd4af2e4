//! Which network some arrays are of.

use std::collections::HashMap;
use std::path::Path;

use super::ends::{Ends, Head};
use super::{TRUNK, other_head};
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Network, Spec};
use crate::weights::shown::{shown, sides};

/// Name and shape of an array.
type Shape = (String, Vec<usize>);

/// Arrays that may be missing, too many or of other shapes where a file is still told as that of a configuration.
const FEW: usize = 2;

/// The network whose parameters have exactly these names and shapes, `wanted` or any. Errors name the first array that
/// differs from `wanted`, and the configuration that the arrays do fit.
pub(in crate::weights) fn identify(path: &Path, shapes: &[Shape], wanted: Option<Config>) -> Result<Spec> {
    let unknown = || unknown(path, shapes);
    let Some(wanted) = wanted else {
        return fitting(shapes).ok_or_else(unknown);
    };
    let base = ends(shapes).and_then(Ends::spec).ok_or_else(unknown)?;
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
    let difference = differences(network, shapes).into_iter().next()?;
    let hint = fitting(shapes).map_or("they fit no configuration".into(), |spec| flags(&spec));
    Some(difference.error(path, hint))
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

/// The numbers at the ends of a network; of a trunk, where there are convolutions alone. A weight that is missing leaves
/// its bias to say how many outputs it has; that of fc6 alone says the crop, which is the paper's without it.
fn ends(shapes: &[Shape]) -> Option<Ends> {
    let trunk = convolutions(shapes)?;
    if shapes.iter().all(|(name, _)| name.starts_with(TRUNK)) {
        return Some(trunk);
    }
    let side = Spec::paper(Config::D).crop / 32;
    let head = Head {
        inputs: match dims(shapes, "classifier.0.weight") {
            Some(dims) => *dims.get(1)?,
            None => (side * side).checked_mul(trunk.last)?,
        },
        fc: outputs(shapes, "classifier.0").or_else(|| outputs(shapes, "classifier.3"))?,
        classes: outputs(shapes, "classifier.6")?,
    };
    Some(Ends {
        head: Some(head),
        ..trunk
    })
}

/// The same of the convolutions, whatever stands behind them.
fn convolutions(shapes: &[Shape]) -> Option<Ends> {
    let first = outputs(shapes, "features.0")?;
    Some(Ends {
        first,
        last: ((512.0 * (first as f64 / 64.0)).round() as usize).max(1),
        batch_norm: false, // asked of each configuration
        head: None,
    })
}

fn dims<'a>(shapes: &'a [Shape], wanted: &str) -> Option<&'a [usize]> {
    let found = shapes.iter().find(|(name, _)| name == wanted);
    found.map(|(_, dims)| dims.as_slice())
}

fn outputs(shapes: &[Shape], layer: &str) -> Option<usize> {
    let of = |kind| dims(shapes, &format!("{layer}.{kind}"))?.first().copied();
    of("weight").or_else(|| of("bias"))
}

/// The first configuration that has exactly these arrays.
fn fitting(shapes: &[Shape]) -> Option<Spec> {
    let base = ends(shapes)?.spec()?;
    Config::all().find_map(|config| fit(&base, config, shapes))
}

/// A configuration with these numbers, without batch norm or with it, if it has exactly these arrays.
fn fit(numbers: &Spec, config: Config, shapes: &[Shape]) -> Option<Spec> {
    let is_it = |spec: &Spec| {
        spec.build()
            .is_ok_and(|network| differences(&network, shapes).is_empty())
    };
    with_and_without_norm(numbers, config).into_iter().find(is_it)
}

fn with_and_without_norm(numbers: &Spec, config: Config) -> [Spec; 2] {
    [false, true].map(|batch_norm| Spec {
        config,
        batch_norm,
        ..numbers.clone()
    })
}

/// No configuration fits. One may fit all but few arrays, or the convolutions alone.
fn unknown(path: &Path, shapes: &[Shape]) -> Error {
    if let Some(error) = nearly(path, shapes) {
        return error;
    }
    let mut trunk = shapes.to_vec();
    trunk.retain(|(name, _)| name.starts_with(TRUNK));
    let others = shapes.len() - trunk.len();
    match fitting(&trunk).filter(|_| others > 0) {
        Some(spec) => other_head(path.display(), spec.config, format_args!("{others} other arrays")),
        None => Error::invalid_hint(
            path.display(),
            "the arrays of a VGG network under torchvision's names",
            format_args!("{} other arrays", shapes.len()),
            "verydeep inspect shows what a file holds",
        ),
    }
}

/// The error where a configuration fits all but few arrays: it names them.
fn nearly(path: &Path, shapes: &[Shape]) -> Option<Error> {
    let ends = [ends(shapes), convolutions(shapes)].into_iter().flatten();
    let of_any = |base: Spec| Config::all().flat_map(move |config| with_and_without_norm(&base, config));
    let specs = ends.filter_map(Ends::spec).flat_map(of_any);
    let found = specs.filter_map(|spec| {
        let network = spec.build().ok()?;
        Some((differences(&network, shapes), spec))
    });
    let (differences, spec) = found.min_by_key(|(differences, _)| differences.len())?;
    if differences.len() > FEW {
        return None;
    }
    let mut hint = format!("all others {}", flags(&spec).trim_start_matches("they "));
    for other in &differences[1..] {
        hint.push_str(&format!("; {} differs too", other.what));
    }
    let first = differences.into_iter().next()?;
    Some(first.error(path, hint))
}

/// An array that is not as a network has it.
struct Difference {
    what: String,
    expected: String,
    found: String,
}

impl Difference {
    fn error(self, path: &Path, hint: String) -> Error {
        let place = format!("{}: {}", path.display(), self.what);
        Error::invalid_hint(place, self.expected, self.found, hint)
    }
}

/// The arrays of the network that are not there, or not in their shape; then arrays too many.
fn differences(network: &Network, shapes: &[Shape]) -> Vec<Difference> {
    let by_name: HashMap<&str, &[usize]> = shapes
        .iter()
        .map(|(name, dims)| (name.as_str(), dims.as_slice()))
        .collect();
    let mut differences = Vec::new();
    for parameter in &network.parameters {
        let layer = &network.layers[parameter.layer].name;
        let found = match by_name.get(parameter.name.as_str()) {
            Some(dims) if *dims == parameter.dims => continue,
            Some(dims) => format!("shape {}", sides(dims)),
            None => "no such array".into(),
        };
        differences.push(Difference {
            what: format!("array {} (layer {layer})", parameter.name),
            expected: format!("shape {:?}", parameter.dims),
            found,
        });
    }
    let counted = |name: &str| name.ends_with("num_batches_tracked"); // PyTorch's counter
    let known = |name: &str| network.parameters.iter().any(|p| p.name == name);
    let extra = shapes.iter().filter(|(name, _)| !known(name) && !counted(name));
    differences.extend(extra.map(|(name, dims)| Difference {
        what: format!("array {}", shown(name)),
        expected: "none".into(),
        found: format!("shape {}", sides(dims)),
    }));
    differences
}
