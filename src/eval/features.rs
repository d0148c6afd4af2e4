//! Features of images (appendix B of the paper): a fully connected layer's values over all windows of the whole image,
//! averaged, averaged with those of the mirror image, normalised to length 1, and averaged or stacked over scales.

use super::look::{Kind, Look, Protocol};
use super::network::{Resources, Sink, decoders, walk};
use super::views::Pass;
use crate::backend::Backend;
use crate::data::loader::{Action, Source};
use crate::data::preprocess::Preprocess;
use crate::error::{BadSample, Error, Result};
use crate::exec::Scorer;
use crate::network::{Network, Op};
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
    /// `fc6`, `fc7` (with their ReLU) or `fc8`.
    pub layer: String,
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
        protocol: Protocol::Dense,
        scales: wanted.scales.clone(),
        flip: wanted.flip,
    };
    look.check(model.spec.crop)?;
    let network = up_to(&model.network, &wanted.layer)?;
    let pool = decoders(resources)?;
    let mut scorer = Scorer::new(backend, &model.weights)?;
    let mut scales = Vec::new();
    for &scale in &look.scales {
        let pass = Pass {
            source,
            kind: Kind::Whole,
            scale,
            crop: model.spec.crop,
            exif: preprocess.exif,
            pool: &pool,
        };
        let mut means = Means::new(source.len(), network.classes, Kind::Whole.flips(&look).len());
        walk(
            &pass,
            &look,
            &mut scorer,
            (&network, preprocess),
            resources.batch,
            &mut means,
        )?;
        if let Some(bad) = means.bad {
            return Err(Error::Sample(Box::new(bad)));
        }
        if wanted.normalise {
            normalise(&mut means.values, network.classes);
        }
        scales.push(means.values);
    }
    let mut features = join(&scales, network.classes, wanted.across);
    if wanted.normalise {
        normalise(&mut features.values, features.len);
    }
    Ok(features)
}

/// The network's first layers, up to a fully connected layer and the ReLU behind it. Its "classes" are the features.
fn up_to(network: &Network, layer: &str) -> Result<Network> {
    let is_it =
        |index: &usize| network.layers[*index].name == layer && network.layers[*index].op == Op::Linear;
    let found = (0..network.layers.len()).find(is_it).ok_or_else(|| {
        Error::invalid(
            "--layer",
            "fc6, fc7 or fc8: a fully connected layer",
            format_args!("'{layer}'"),
        )
    })?;
    let relu = network.layers.get(found + 1).filter(|next| next.op == Op::Relu);
    let mut network = network.clone();
    network.layers.truncate(found + 1 + usize::from(relu.is_some()));
    network.classes = network.layers[found].output.len();
    Ok(network)
}

/// Means over windows and views.
struct Means {
    len: usize,
    values: Vec<f32>,
    views: usize,
    bad: Option<BadSample>,
}

impl Means {
    fn new(images: usize, len: usize, views: usize) -> Self {
        Self {
            len,
            values: vec![0.0; images * len],
            views,
            bad: None,
        }
    }
}

impl Sink for Means {
    fn add(&mut self, image: usize, values: &[f32], _: f64) {
        let windows = values.len() / self.len;
        let scale = 1.0 / (windows * self.views) as f64;
        let place = &mut self.values[image * self.len..][..self.len];
        for (i, mean) in place.iter_mut().enumerate() {
            let column = values[i..].iter().step_by(self.len);
            let sum: f64 = column.map(|&value| f64::from(value)).sum();
            *mean += (scale * sum) as f32;
        }
    }

    fn note(&mut self, _: usize, sample: BadSample, action: Action) {
        if action == Action::LeftOut {
            self.bad.get_or_insert(sample);
        }
    }

    fn is_left_out(&self, _: usize) -> bool {
        self.bad.is_some()
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
        let mut means = Means::new(2, 2, 2);
        means.add(1, &[1.0, 10.0, 3.0, 30.0], 0.0);
        means.add(1, &[5.0, 0.0, 5.0, 0.0], 0.0);
        assert_eq!(means.values, [0.0, 0.0, 3.5, 10.0]);
    }
}
