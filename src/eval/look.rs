//! How an image is looked at: the paper's protocols (section 3.2, PAPER.md c).

use std::fmt;

use crate::data::augment::{GRID, MAX_SCALE, Place, View};
use crate::data::preprocess::Flip;
use crate::error::{Error, Result};
use crate::network::SMALLEST_INPUT;

/// Which parts of a rescaled image the network sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The middle crop of the training size.
    Center,
    /// All of it: the fully connected layers as convolutions, their score map averaged.
    Dense,
    /// All of it: the last map averaged down to the size that the fully connected layers were trained on, as torchvision's
    /// models do.
    Adaptive,
    /// 5x5 crops of the training size on a regular grid, and their mirror images.
    MultiCrop,
    /// The mean of the posteriors of dense and multi-crop.
    Both,
}

impl Protocol {
    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::Dense => "dense",
            Self::Adaptive => "adaptive",
            Self::MultiCrop => "multi-crop",
            Self::Both => "both",
        }
    }

    /// Whether score maps are part of it.
    pub fn is_dense(self) -> bool {
        self.kinds().any(|kind| kind == Kind::Whole)
    }

    /// What it takes the mean of, each with the same weight: protocols of one kind of views, and that kind.
    pub(super) fn parts(self) -> &'static [(Self, Kind)] {
        match self {
            Self::Center => &[(Self::Center, Kind::Centre)],
            Self::Dense => &[(Self::Dense, Kind::Whole)],
            Self::Adaptive => &[(Self::Adaptive, Kind::Pooled)],
            Self::MultiCrop => &[(Self::MultiCrop, Kind::Grid)],
            Self::Both => &[(Self::Dense, Kind::Whole), (Self::MultiCrop, Kind::Grid)],
        }
    }

    /// The kinds of views that it takes the mean over, each with the same weight.
    pub(super) fn kinds(self) -> impl Iterator<Item = Kind> {
        self.parts().iter().map(|(_, kind)| *kind)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How one network looks at every image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Look {
    /// Which parts of a rescaled image.
    pub protocol: Protocol,
    /// Shorter sides Q, in pixels.
    pub scales: Vec<usize>,
    /// Whether mirror images count too; those of multi-crop always do.
    pub flip: bool,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scales: Vec<String> = self.scales.iter().map(ToString::to_string).collect();
        let flip = if self.flip { " and flip" } else { "" };
        write!(f, "{}{flip}, Q = {}", self.protocol, scales.join(","))
    }
}

/// One kind of views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Centre,
    /// The whole image, through a network that gives a map of scores.
    Whole,
    /// The whole image, through a network that averages its last map.
    Pooled,
    Grid,
}

impl Kind {
    /// The crops of an image, not mirrored; none where the whole image is seen.
    pub(super) fn crops(self, short_side: usize) -> Vec<View> {
        let view = |place| View {
            short_side,
            place,
            flip: Flip::Keep,
            colour: [0.0; 3],
        };
        match self {
            Self::Centre => vec![view(Place::Centre)],
            Self::Whole | Self::Pooled => Vec::new(),
            Self::Grid => (0..GRID * GRID)
                .map(|i| {
                    view(Place::Grid {
                        across: i % GRID,
                        down: i / GRID,
                    })
                })
                .collect(),
        }
    }

    /// Whether it is whole images, of whatever size.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Whole | Self::Pooled)
    }

    /// Which mirrorings of each.
    pub(super) fn flips(self, look: &Look) -> &'static [Flip] {
        if look.flip || self == Self::Grid {
            &[Flip::Keep, Flip::Mirror]
        } else {
            &[Flip::Keep]
        }
    }
}

impl Look {
    /// The weight of one view of a kind in the mean over all of this network's views.
    pub(super) fn weight(&self, kind: Kind) -> f64 {
        let crops = kind.crops(1).len().max(1);
        let views = crops * kind.flips(self).len() * self.scales.len() * self.protocol.parts().len();
        1.0 / views as f64
    }

    /// Whether it is one view of each image, which can be counted as it comes.
    pub fn is_one_centre(&self) -> bool {
        self.protocol == Protocol::Center && self.scales.len() == 1 && !self.flip
    }

    /// Refuses scales at which an image may be smaller than what the network needs, or larger than any.
    pub fn check(&self, crop: usize) -> Result<()> {
        self.check_least(|kind| match kind {
            Kind::Pooled => (SMALLEST_INPUT, "of which five poolings leave one"),
            Kind::Centre | Kind::Whole | Kind::Grid => (crop, "the crop that the network was trained on"),
        })
    }

    /// The same, where `least` says the smallest shorter side for a kind of views, and why.
    pub(super) fn check_least(&self, least: impl Fn(Kind) -> (usize, &'static str)) -> Result<()> {
        let refuse = |expected: String, found: &dyn fmt::Display| {
            let hint = "images are rescaled so that their shorter side is Q";
            Err(Error::invalid_hint("--scales", expected, found, hint))
        };
        if self.scales.is_empty() {
            return refuse("at least one shorter side in pixels".into(), &"none");
        }
        for scale in &self.scales {
            if *scale > MAX_SCALE {
                return refuse(format!("at most {MAX_SCALE} pixels"), scale);
            }
            for (least, why) in self.protocol.kinds().map(&least) {
                if *scale < least {
                    return refuse(format!("at least {least} pixels, {why}"), scale);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_bounded_in_every_protocol() {
        let look = |protocol, scale| Look {
            protocol,
            scales: vec![256, scale],
            flip: false,
        };
        for protocol in [
            Protocol::Center,
            Protocol::Dense,
            Protocol::Adaptive,
            Protocol::MultiCrop,
            Protocol::Both,
        ] {
            let least = if protocol == Protocol::Adaptive { 32 } else { 224 };
            for (scale, fits) in [
                (0, false),
                (least - 1, false),
                (least, true),
                (MAX_SCALE, true),
                (MAX_SCALE + 1, false),
                (usize::MAX, false),
            ] {
                let checked = look(protocol, scale).check(224);
                assert_eq!(checked.is_ok(), fits, "{protocol}, {scale}");
                if let Err(error) = checked {
                    assert!(error.to_string().starts_with("--scales: expected at"), "{error}");
                }
            }
        }
    }
}
