//! Averages of posteriors over views, scales and networks.

use std::collections::BTreeMap;

use super::network::Sink;
use super::tally::Tally;
use crate::data::loader::{Action, BadEvent, Source};
use crate::error::{BadSample, Error, Result};

/// Which way the score map of a dense evaluation becomes posteriors. They differ nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreAverage {
    /// The scores of the windows are averaged, then the soft-max is taken.
    Scores,
    /// The soft-max of every window is taken, then the posteriors are averaged.
    Posteriors,
}

impl ScoreAverage {
    /// Both, in the order in which they are reported.
    pub const ALL: [Self; 2] = [Self::Scores, Self::Posteriors];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Posteriors => "posteriors",
        }
    }
}

/// Posteriors of every image, (N, classes), summed with weights; and what was wrong with images.
#[derive(Debug, Clone, Default)]
pub struct Averages {
    classes: usize,
    /// By [`ScoreAverage`].
    sums: [Vec<f32>; 2],
    /// The first thing that was wrong with an image.
    bad: BTreeMap<usize, BadEvent>,
    /// Scratch: one window's posteriors, or mean scores.
    row: Vec<f64>,
}

/// The smallest posterior that counts in a loss: what rounds to 0 costs 87.3, not infinitely much.
const LEAST_POSTERIOR: f32 = f32::MIN_POSITIVE;

impl Averages {
    /// Of `images` images, nothing added yet.
    pub fn new(images: usize, classes: usize) -> Self {
        Self {
            classes,
            sums: [0; 2].map(|_| vec![0.0; images * classes]),
            bad: BTreeMap::new(),
            row: vec![0.0; classes],
        }
    }

    /// Those of all images where replicas had them in turn: the first of each, then the second of each, and so on.
    pub(super) fn of_turns(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let classes = parts[0].classes;
        let images = parts.iter().map(|part| part.sums[0].len() / classes).sum();
        let mut all = Self::new(images, classes);
        for average in ScoreAverage::ALL {
            let rows = all.all_mut(average).chunks_exact_mut(classes);
            for (image, row) in rows.enumerate() {
                let part = &parts[image % parts.len()];
                row.copy_from_slice(part.posteriors(image / parts.len(), average));
            }
        }
        let replicas = parts.len();
        for (rank, part) in parts.into_iter().enumerate() {
            for (image, event) in part.bad {
                all.note(image * replicas + rank, event.sample, event.action);
            }
        }
        all
    }

    /// Adds the scores (windows, classes) of one view of an image, with a weight.
    pub(super) fn add(&mut self, image: usize, scores: &[f32], weight: f64) {
        let windows = scores.len() / self.classes;
        self.row.fill(0.0);
        for window in scores.chunks_exact(self.classes) {
            let sums = self.row.iter_mut().zip(window);
            sums.for_each(|(sum, &score)| *sum += f64::from(score));
        }
        self.row.iter_mut().for_each(|sum| *sum /= windows as f64);
        soft_max(&mut self.row);
        let place = image * self.classes..(image + 1) * self.classes;
        add_weighted(&mut self.sums[0][place.clone()], &self.row, weight);
        let weight = weight / windows as f64;
        for window in scores.chunks_exact(self.classes) {
            let row = self.row.iter_mut().zip(window);
            row.for_each(|(to, &score)| *to = f64::from(score));
            soft_max(&mut self.row);
            add_weighted(&mut self.sums[1][place.clone()], &self.row, weight);
        }
    }

    /// Takes the weighted mean with others of the same images: `self * own + other * (1 - own)`.
    pub(super) fn mix(&mut self, other: &Self, own: f64) {
        for (sums, others) in self.sums.iter_mut().zip(&other.sums) {
            for (sum, &other) in sums.iter_mut().zip(others) {
                *sum = (own * f64::from(*sum) + (1.0 - own) * f64::from(other)) as f32;
            }
        }
        for (&image, event) in &other.bad {
            self.note(image, event.sample.clone(), event.action);
        }
    }

    /// Notes what is wrong with an image. An image that is left out stays left out.
    pub(super) fn note(&mut self, image: usize, sample: BadSample, action: Action) {
        if self.is_left_out(image) || (self.bad.contains_key(&image) && action != Action::LeftOut) {
            return;
        }
        let position = image as u64;
        self.bad.insert(
            image,
            BadEvent {
                position,
                sample,
                action,
            },
        );
    }

    /// Whether an image does not count.
    pub fn is_left_out(&self, image: usize) -> bool {
        self.bad
            .get(&image)
            .is_some_and(|event| event.action == Action::LeftOut)
    }

    /// What was wrong with images, in their order.
    pub fn bad(&self) -> impl Iterator<Item = &BadEvent> {
        self.bad.values()
    }

    /// The posteriors of one image.
    pub fn posteriors(&self, image: usize, average: ScoreAverage) -> &[f32] {
        &self.all(average)[image * self.classes..][..self.classes]
    }

    /// The posteriors of all images, (N, classes).
    pub(super) fn all(&self, average: ScoreAverage) -> &[f32] {
        &self.sums[average as usize]
    }

    /// The same, to be written.
    pub(super) fn all_mut(&mut self, average: ScoreAverage) -> &mut [f32] {
        &mut self.sums[average as usize]
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts what the posteriors get right. Errors where a label names no class, where a posterior is not finite, and where
    /// every image was left out.
    pub fn tally(&self, source: &dyn Source, average: ScoreAverage) -> Result<Tally> {
        let mut tally = Tally {
            bad: self.bad.values().cloned().collect(),
            ..Tally::default()
        };
        for image in (0..source.len()).filter(|image| !self.is_left_out(*image)) {
            let label = source.label(image) as usize;
            let posteriors = self.posteriors(image, average);
            let Some(&posterior) = posteriors.get(label) else {
                let expected = format!("a class below {}", self.classes);
                return Err(Error::invalid(
                    format_args!("label of image {image}"),
                    expected,
                    label,
                ));
            };
            if !posterior.is_finite() {
                return Err(Error::Overflow {
                    network: "averaged posteriors".into(),
                    image: source.bad_sample(image, String::new()).place(),
                });
            }
            let loss = -libm::log(f64::from(posterior.max(LEAST_POSTERIOR)));
            tally.add(loss, rank_of(posteriors, label));
        }
        tally.check_counted()?;
        Ok(tally)
    }
}

impl Sink for Averages {
    fn add(&mut self, image: usize, scores: &[f32], weight: f64) {
        Self::add(self, image, scores, weight);
    }

    fn note(&mut self, image: usize, sample: BadSample, action: Action) {
        Self::note(self, image, sample, action);
    }

    fn is_left_out(&self, image: usize) -> bool {
        Self::is_left_out(self, image)
    }
}

/// How many classes come before the true one: all but those with a lower posterior, or an equal one and a higher index.
/// NaN never wins.
fn rank_of(posteriors: &[f32], label: usize) -> u32 {
    let x = posteriors;
    let after = |k: usize| k == label || x[k] < x[label] || x[k] == x[label] && k > label;
    (0..x.len()).filter(|&k| !after(k)).count() as u32
}

/// `x[k] <- exp(x[k]) / sum of exp(x)`, computed with `x - max x`. A NaN score makes all of it NaN.
fn soft_max(x: &mut [f64]) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter_mut().for_each(|x| *x = libm::exp(*x - max));
    let sum: f64 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

fn add_weighted(sums: &mut [f32], row: &[f64], weight: f64) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += (weight * x) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_window_is_its_soft_max_either_way() {
        let mut averages = Averages::new(2, 3);
        averages.add(1, &[0.0, 2.0, 1.0], 1.0);
        for average in ScoreAverage::ALL {
            let sum: f64 = [0.0f64, 2.0, 1.0].iter().map(|x| x.exp()).sum();
            let found = averages.posteriors(1, average);
            for (found, x) in found.iter().zip([0.0f64, 2.0, 1.0]) {
                assert!((f64::from(*found) - x.exp() / sum).abs() < 1e-7);
            }
            assert_eq!(averages.posteriors(0, average), [0.0; 3]);
        }
    }

    #[test]
    fn the_two_averages_of_a_map_differ_as_said() {
        let mut averages = Averages::new(1, 2);
        averages.add(0, &[4.0, 0.0, 0.0, 1.0], 1.0);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let [scores, posteriors] =
            ScoreAverage::ALL.map(|average| f64::from(averages.posteriors(0, average)[0]));
        assert!((scores - sigmoid(1.5)).abs() < 1e-7);
        assert!((posteriors - (sigmoid(4.0) + sigmoid(-1.0)) / 2.0).abs() < 1e-7);
    }

    #[test]
    fn what_is_left_out_stays_left_out() {
        let sample = |reason: &str| BadSample {
            shard: "s".into(),
            offset: 0,
            key: "k".into(),
            reason: reason.into(),
        };
        let mut averages = Averages::new(3, 2);
        averages.note(1, sample("odd"), Action::Kept);
        averages.note(1, sample("gone"), Action::LeftOut);
        averages.note(1, sample("odd again"), Action::Kept);
        let events: Vec<_> = averages.bad().collect();
        assert_eq!(events.len(), 1);
        assert!(averages.is_left_out(1) && !averages.is_left_out(0));
        assert_eq!(events[0].sample.reason, "gone");
    }

    #[test]
    fn images_that_were_dealt_come_back_in_their_order() {
        let sample = BadSample {
            shard: "s".into(),
            offset: 0,
            key: "k".into(),
            reason: "gone".into(),
        };
        let part = |images: &[usize]| {
            let mut part = Averages::new(images.len(), 2);
            for (i, &image) in images.iter().enumerate() {
                part.add(i, &[image as f32, 0.0], 1.0);
            }
            part
        };
        let whole = part(&[0, 1, 2, 3, 4]);
        let mut parts = vec![part(&[0, 3]), part(&[1, 4]), part(&[2])];
        parts[1].note(1, sample, Action::LeftOut);
        let all = Averages::of_turns(parts);
        for average in ScoreAverage::ALL {
            assert_eq!(all.all(average), whole.all(average));
        }
        let bad: Vec<u64> = all.bad().map(|event| event.position).collect();
        assert!(bad == [4] && all.is_left_out(4));
    }

    #[test]
    fn nan_ranks_the_true_class_last() {
        assert_eq!(rank_of(&[f32::NAN, f32::NAN, f32::NAN], 1), 2);
        assert_eq!(rank_of(&[0.4, 0.4, 0.2], 1), 1);
        assert_eq!(rank_of(&[0.4, 0.4, 0.2], 0), 0);
    }
}
