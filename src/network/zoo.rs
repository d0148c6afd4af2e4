//! The configurations of the paper (table 1) as one table, and the choices that turn a row into a network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Builder, Network};
use crate::error::{Error, Result};
use crate::shape::Chw;

/// Poolings, one behind each block of convolutions.
pub const POOLS: usize = 5;

/// Pixels along an edge of the smallest image, of which the poolings leave one.
pub const SMALLEST_INPUT: usize = 1 << POOLS;

/// Channels of the convolutions of each block at width 1.
const CHANNELS: [usize; POOLS] = [64, 128, 256, 512, 512];

/// One column of the paper's table 1: the kernel sizes of each block's convolutions.
struct Row {
    config: Config,
    name: &'static str,
    /// torchvision's and Caffe's name, by the number of weight layers.
    alias: Option<&'static str>,
    blocks: [&'static [usize]; POOLS],
}

const TABLE: [Row; 6] = [
    Row {
        config: Config::A,
        name: "A",
        alias: Some("vgg11"),
        blocks: [&[3], &[3], &[3, 3], &[3, 3], &[3, 3]],
    },
    Row {
        config: Config::ALrn,
        name: "A-LRN",
        alias: None,
        blocks: [&[3], &[3], &[3, 3], &[3, 3], &[3, 3]],
    },
    Row {
        config: Config::B,
        name: "B",
        alias: Some("vgg13"),
        blocks: [&[3, 3], &[3, 3], &[3, 3], &[3, 3], &[3, 3]],
    },
    Row {
        config: Config::C,
        name: "C",
        alias: None,
        blocks: [&[3, 3], &[3, 3], &[3, 3, 1], &[3, 3, 1], &[3, 3, 1]],
    },
    Row {
        config: Config::D,
        name: "D",
        alias: Some("vgg16"),
        blocks: [&[3, 3], &[3, 3], &[3, 3, 3], &[3, 3, 3], &[3, 3, 3]],
    },
    Row {
        config: Config::E,
        name: "E",
        alias: Some("vgg19"),
        blocks: [&[3, 3], &[3, 3], &[3, 3, 3, 3], &[3, 3, 3, 3], &[3, 3, 3, 3]],
    },
];

/// A column of the paper's table 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Config {
    /// 11 weight layers.
    A,
    /// A with local response normalisation after the first convolution.
    ALrn,
    /// 13 weight layers.
    B,
    /// 16 weight layers, three of them 1x1 convolutions.
    C,
    /// 16 weight layers.
    D,
    /// 19 weight layers.
    E,
}

impl Config {
    /// Every configuration, in the paper's order.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.config)
    }

    /// The paper's name: "A-LRN".
    pub fn name(self) -> &'static str {
        self.row().name
    }

    fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.config == self)
            .expect("every configuration has a row")
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Config {
    type Err = Error;

    /// The paper's name or the alias, in any case.
    fn from_str(text: &str) -> Result<Self> {
        let known = |row: &&Row| {
            row.name.eq_ignore_ascii_case(text) || row.alias.is_some_and(|a| a.eq_ignore_ascii_case(text))
        };
        TABLE.iter().find(known).map(|row| row.config).ok_or_else(|| {
            Error::invalid(
                "--config",
                "A, A-LRN, B, C, D, E, vgg11, vgg13, vgg16 or vgg19",
                format_args!("'{text}'"),
            )
        })
    }
}

/// How much of a network there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// All of it.
    #[default]
    Whole,
    /// The convolutions and poolings alone: other people's networks with another classifier, or none.
    Trunk,
}

impl Extent {
    fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

/// Everything that decides the network: a configuration and how it is scaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Column of table 1.
    #[serde(with = "crate::text")]
    pub config: Config,
    /// Batch normalisation after every convolution.
    pub batch_norm: bool,
    /// Outputs of the last layer; 0 of a trunk.
    pub classes: usize,
    /// Side of the square input in pixels; 224 in the paper.
    pub crop: usize,
    /// Factor of the convolutions' channels; 1 in the paper.
    pub width: f64,
    /// Outputs of fc6 and fc7; 4096 in the paper, 0 of a trunk.
    pub fc: usize,
    /// Dropout probability of fc6 and fc7; 0.5 in the paper.
    pub dropout: f64,
    /// Whether the fully connected layers belong to it.
    #[serde(default, skip_serializing_if = "Extent::is_whole")]
    pub extent: Extent,
}

impl Spec {
    /// A configuration exactly as the paper trains it.
    pub fn paper(config: Config) -> Self {
        Self {
            config,
            batch_norm: false,
            classes: 1000,
            crop: 224,
            width: 1.0,
            fc: 4096,
            dropout: 0.5,
            extent: Extent::Whole,
        }
    }

    /// The convolutions and poolings of a configuration.
    pub fn trunk(config: Config) -> Self {
        Self {
            classes: 0,
            fc: 0,
            extent: Extent::Trunk,
            ..Self::paper(config)
        }
    }

    /// The network. Errors name the number that is out of range.
    pub fn build(&self) -> Result<Network> {
        let outputs = match self.extent {
            Extent::Whole => 1..=1 << 20,
            Extent::Trunk => 0..=0,
        };
        let limits = [
            ("--classes", self.classes, outputs.clone()),
            ("--fc", self.fc, outputs),
            ("--crop", self.crop, SMALLEST_INPUT..=4096),
        ];
        for (what, value, range) in limits {
            if !range.contains(&value) {
                return Err(Error::invalid(
                    what,
                    format_args!("{} to {}", range.start(), range.end()),
                    value,
                ));
            }
        }
        if !(self.width > 0.0 && self.width <= 16.0) {
            return Err(Error::invalid(
                "--width",
                "a factor above 0, at most 16",
                self.width,
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(
                "--dropout",
                "a probability from 0 up to, not including, 1",
                self.dropout,
            ));
        }

        let mut net = Builder::new(Chw::new(3, self.crop, self.crop));
        for (block, (kernels, channels)) in self.config.row().blocks.iter().zip(CHANNELS).enumerate() {
            let channels = ((channels as f64 * self.width).round() as usize).max(1);
            for (i, &kernel) in kernels.iter().enumerate() {
                let id = format!("{}_{}", block + 1, i + 1);
                net.conv(format!("conv{id}"), kernel, channels);
                if self.batch_norm {
                    net.batch_norm(format!("bn{id}"));
                }
                net.relu(format!("relu{id}"));
                if self.config == Config::ALrn && block == 0 {
                    net.lrn(format!("lrn{id}"));
                }
            }
            net.max_pool(format!("pool{}", block + 1))?;
        }
        if self.extent == Extent::Trunk {
            return Ok(net.finish());
        }
        for i in [6, 7] {
            net.linear(format!("fc{i}"), self.fc);
            net.relu(format!("relu{i}"));
            net.dropout(format!("drop{i}"), self.dropout as f32);
        }
        net.linear("fc8".into(), self.classes);
        Ok(net.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(config: Config, batch_norm: bool) -> Network {
        Spec {
            batch_norm,
            ..Spec::paper(config)
        }
        .build()
        .unwrap()
    }

    /// PAPER.md a, which equals torchvision's `num_params` and `_ops` for A, B, D, E.
    #[test]
    fn parameters_and_macs_are_the_papers() {
        let expected = [
            (Config::A, 132_863_336, 7.609),
            (Config::ALrn, 132_863_336, 7.609),
            (Config::B, 133_047_848, 11.308),
            (Config::C, 133_638_952, 11.771),
            (Config::D, 138_357_544, 15.470),
            (Config::E, 143_667_240, 19.632),
        ];
        for (config, parameters, gmacs) in expected {
            let network = build(config, false);
            assert_eq!(network.parameter_count(), parameters, "{config}");
            assert_eq!((network.macs() as f64 / 1e6).round() / 1e3, gmacs, "{config}");
        }
    }

    /// PAPER.md h: torchvision's `vgg*_bn`.
    #[test]
    fn parameters_with_batch_norm_are_torchvisions() {
        let expected = [
            (Config::A, 132_868_840),
            (Config::B, 133_053_736),
            (Config::D, 138_365_992),
            (Config::E, 143_678_248),
        ];
        for (config, parameters) in expected {
            assert_eq!(build(config, true).parameter_count(), parameters, "{config}");
        }
    }

    #[test]
    fn names_are_torchvisions() {
        let names = |network: &Network| {
            network
                .parameters
                .iter()
                .map(|p| p.name.clone())
                .collect::<Vec<_>>()
        };
        let plain = names(&build(Config::A, false));
        assert_eq!(
            plain[..4],
            [
                "features.0.weight",
                "features.0.bias",
                "features.3.weight",
                "features.3.bias"
            ]
        );
        assert_eq!(
            plain[plain.len() - 6..][..2],
            ["classifier.0.weight", "classifier.0.bias"]
        );
        assert_eq!(plain[plain.len() - 1], "classifier.6.bias");
        let bn = names(&build(Config::D, true));
        assert!(bn.contains(&"features.1.running_var".to_string()));
        assert!(bn.contains(&"features.40.weight".to_string()));
    }

    /// A trunk is the first part of the whole, under the same names; whole networks are described as they always were.
    #[test]
    fn a_trunk_ends_with_its_last_pooling() {
        let (trunk, whole) = (Spec::trunk(Config::D), Spec::paper(Config::D));
        let (network, of) = (trunk.build().unwrap(), whole.build().unwrap());
        assert_eq!(network.layers[..], of.layers[..network.layers.len()]);
        assert_eq!(network.parameters[..], of.parameters[..network.parameters.len()]);
        assert_eq!(network.layers[network.layers.len() - 1].name, "pool5");
        assert!(!serde_json::to_string(&whole).unwrap().contains("extent"));
        for spec in [trunk, whole] {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
        }
    }

    #[test]
    fn aliases_and_case_are_understood() {
        for (text, config) in [
            ("a-lrn", Config::ALrn),
            ("VGG16", Config::D),
            ("e", Config::E),
            ("vgg13", Config::B),
        ] {
            assert_eq!(text.parse::<Config>().unwrap(), config);
        }
        assert!("F".parse::<Config>().is_err());
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for spec in [
            Spec {
                crop: 31,
                ..Spec::paper(Config::A)
            },
            Spec {
                width: 0.0,
                ..Spec::paper(Config::A)
            },
            Spec {
                width: f64::NAN,
                ..Spec::paper(Config::A)
            },
            Spec {
                dropout: 1.0,
                ..Spec::paper(Config::A)
            },
            Spec {
                classes: 0,
                ..Spec::paper(Config::A)
            },
            Spec {
                classes: 10,
                ..Spec::trunk(Config::A)
            },
        ] {
            assert_eq!(spec.build().unwrap_err().exit_code(), 3);
        }
    }
}
