//! Features of images (appendix B of the paper): a layer's values over all views of an image, by default over all windows of
//! the whole image, averaged, with those of the mirror image if wanted, normalised to length 1, and averaged or stacked over
//! scales. The map of a convolution or pooling counts as its mean.

use std::collections::BTreeMap;

use super::look::{Kind, Look, Protocol};
use super::network::{Networks, Resources, Sink, Views, decoders, name_of};
use crate::backend::Backend;
use crate::data::loader::{Action, BadEvent, Source};
use crate::data::preprocess::Preprocess;
use crate::error::{BadSample, Error, Result};
use crate::exec::Scorer;
use crate::network::{Layer, Network, Op};
use crate::shape::Chw;
use crate::weights::Model;

/// What becomes of the features of several scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcrossScales {
    /// Their mean: what the paper does for VOC.
    Average,
    /// One after the other: what the paper does for Caltech.
    Stack,
}

/// Which features.
#[derive(Debug, Clone)]
pub struct WantedFeatures {
    /// Name of a layer; `conv5_3` and `fc7` mean their values behind the ReLU.
    pub layer: String,
    /// Which parts of a rescaled image; the features of all views are averaged.
    pub protocol: Protocol,
    /// Shorter sides Q.
    pub scales: Vec<usize>,
    /// Whether the mirror image counts too.
    pub flip: bool,
    /// What becomes of several scales.
    pub across: AcrossScales,
    /// Whether the features of every scale, and the result, are divided by their length.
    pub normalise: bool,
}

/// Features of every image.
#[derive(Debug, Clone)]
pub struct Features {
    /// Numbers of one image.
    pub len: usize,
    /// (N, len).
    pub values: Vec<f32>,
    /// Images that decode in part only, and are used as far as they do.
    pub kept: Vec<BadEvent>,
}

/// Features of every image of `source`. An image that cannot be read is an error: the rows would no longer be the images.
pub fn features<B: Backend>(
    backend: &B,
    model: &Model,
    preprocess: &Preprocess,
    source: &dyn Source,
    wanted: &WantedFeatures,
    resources: Resources,
) -> Result<Features> {
    let look = Look {
        protocol: wanted.protocol,
        scales: wanted.scales.clone(),
        flip: wanted.flip,
    };
    let networks = Networks::new(&model.network, |network| up_to(network, &wanted.layer))?;
    look.check_least(|kind| least_side(kind, networks.of(kind), model.spec.crop))?;
    let len = networks.of(Kind::Centre).classes;
    let mut views = Views {
        name: name_of(model),
        crop: model.spec.crop,
        preprocess,
        source,
        look: &look,
        networks,
        batch: resources.batch,
        pool: decoders(resources)?,
        scorer: Scorer::new(backend, &model.weights)?,
    };
    let mut scales = Vec::new();
    let mut kept = BTreeMap::new();
    for &scale in &look.scales {
        let mut means = Means::new(source.len(), len, look.scales.len());
        views.walk(scale, &mut means)?;
        if let Some(bad) = means.left_out {
            return Err(Error::Sample(Box::new(bad)));
        }
        kept.append(&mut means.kept);
        if wanted.normalise {
            normalise(&mut means.values, len);
        }
        scales.push(means.values);
    }
    let mut features = join(&scales, len, wanted.across);
    features.kept = kept.into_values().collect();
    if wanted.normalise {
        normalise(&mut features.values, features.len);
    }
    Ok(features)
}

/// The smallest shorter side of an image that leaves something of a map, and why. The first fully connected layer takes maps
/// of the training size, crops are of it; every layer before takes whatever poolings leave.
fn least_side(kind: Kind, network: &Network, crop: usize) -> (usize, &'static str) {
    let has = |op: Op| network.layers.iter().filter(|layer| layer.op == op).count();
    if !kind.is_whole() || (kind == Kind::Whole && has(Op::Linear) > 0) {
        return (crop, "the crop that the network was trained on");
    }
    (
        1 << has(Op::MaxPool),
        "of which the poolings before --layer leave one",
    )
}

/// The network's first layers, up to a named one with its normalisation and its ReLU; a map is averaged over its pixels. Its
/// "classes" are the features.
fn up_to(network: &Network, layer: &str) -> Result<Network> {
    let layers = &network.layers;
    let found = layers.iter().position(|one| one.name == layer).ok_or_else(|| {
        Error::invalid(
            "--layer",
            "a layer as verydeep plan names it, such as conv5_1, pool5 or fc7",
            format_args!("'{layer}'"),
        )
    })?;
    let belongs = |next: &&Layer| matches!(next.op, Op::BatchNorm | Op::Relu);
    let end = found + 1 + layers[found + 1..].iter().take_while(belongs).count();
    let mut network = network.clone();
    network.layers.truncate(end);
    let last = &network.layers[end - 1];
    network.classes = last.output.c;
    if !network.layers.iter().any(|layer| layer.op == Op::Linear) {
        let mean = Layer {
            name: "mean".into(),
            op: Op::AveragePool { side: 1 },
            input: last.output,
            output: Chw::new(last.output.c, 1, 1),
            parameters: last.parameters.end..last.parameters.end,
        };
        network.layers.push(mean);
    }
    Ok(network)
}

/// Means over windows and views at one scale.
struct Means {
    len: usize,
    values: Vec<f32>,
    /// How many scales share the weights of views.
    scales: usize,
    /// The first image that cannot be used.
    left_out: Option<BadSample>,
    /// Images that decode in part.
    kept: BTreeMap<usize, BadEvent>,
}

impl Means {
    fn new(images: usize, len: usize, scales: usize) -> Self {
        Self {
            len,
            values: vec![0.0; images * len],
            scales,
            left_out: None,
            kept: BTreeMap::new(),
        }
    }
}

impl Sink for Means {
    fn add(&mut self, image: usize, values: &[f32], weight: f64) {
        let windows = values.len() / self.len;
        let scale = weight * self.scales as f64 / windows as f64;
        let place = &mut self.values[image * self.len..][..self.len];
        for (i, mean) in place.iter_mut().enumerate() {
            let column = values[i..].iter().step_by(self.len);
            let sum: f64 = column.map(|&value| f64::from(value)).sum();
            *mean += (scale * sum) as f32;
        }
    }

    fn note(&mut self, image: usize, sample: BadSample, action: Action) {
        match action {
            Action::LeftOut => {
                self.left_out.get_or_insert(sample);
            }
            Action::Kept | Action::Replaced => {
                self.kept.entry(image).or_insert(BadEvent {
                    position: image as u64,
                    sample,
                    action,
                });
            }
        }
    }

    fn is_left_out(&self, _: usize) -> bool {
        self.left_out.is_some()
    }
}

/// Divides every row by its length; a row of zeros stays.
fn normalise(values: &mut [f32], len: usize) {
    for row in values.chunks_exact_mut(len) {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let length = squares.sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
}

/// The features of all scales, (N, len) each, as one.
fn join(scales: &[Vec<f32>], len: usize, across: AcrossScales) -> Features {
    let images = scales[0].len() / len;
    match across {
        AcrossScales::Average => {
            let mean = |i: usize| {
                let sum: f64 = scales.iter().map(|values| f64::from(values[i])).sum();
                (sum / scales.len() as f64) as f32
            };
            Features {
                len,
                values: (0..images * len).map(mean).collect(),
                kept: Vec::new(),
            }
        }
        AcrossScales::Stack => {
            let rows = (0..images).flat_map(|image| {
                scales
                    .iter()
                    .flat_map(move |values| &values[image * len..][..len])
            });
            Features {
                len: len * scales.len(),
                values: rows.copied().collect(),
                kept: Vec::new(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_averaged_or_stacked_and_rows_have_length_one() {
        let scales = [vec![3.0, 4.0, 0.0, 2.0], vec![1.0, 0.0, 0.0, 0.0]];
        let stacked = join(&scales, 2, AcrossScales::Stack);
        assert_eq!(
            (stacked.len, stacked.values),
            (4, vec![3.0, 4.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0])
        );
        let mut averaged = join(&scales, 2, AcrossScales::Average);
        assert_eq!(averaged.values, [2.0, 2.0, 0.0, 1.0]);
        averaged.values[2..].fill(0.0);
        normalise(&mut averaged.values, 2);
        assert!((averaged.values[0] - 0.5f32.sqrt()).abs() < 1e-7);
        assert_eq!(averaged.values[2..], [0.0, 0.0]);
    }

    #[test]
    fn features_of_a_map_are_means_over_windows_and_mirrorings() {
        let mut means = Means::new(2, 2, 3);
        means.add(1, &[1.0, 10.0, 3.0, 30.0], 1.0 / 6.0);
        means.add(1, &[5.0, 0.0, 5.0, 0.0], 1.0 / 6.0);
        assert_eq!(means.values, [0.0, 0.0, 3.5, 10.0]);
    }
}
