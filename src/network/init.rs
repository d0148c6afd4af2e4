//! Initial weights. Every element is a pure function of (seed, parameter index, element index).

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;

use super::{Network, Parameter, Role};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream, normal_from, uniform_from};

/// How the weights of convolutions and linear layers start. Biases start at 0, batch norm as the identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform in +-sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, equation 16. The paper's later note says
    /// that with it no pre-training is needed.
    Glorot,
    /// Normal with variance 2 / fan_in: He et al. 2015, equation 10.
    He,
    /// Normal with this standard deviation. The paper's text says "variance 1e-2"; what was meant is very probably
    /// a standard deviation of 1e-2 (PAPER.md b).
    Normal(f64),
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glorot => f.write_str("glorot"),
            Self::He => f.write_str("he"),
            Self::Normal(std) => write!(f, "normal:{std}"),
        }
    }
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::invalid(
                "--init",
                "glorot, he or normal:STD with STD above 0",
                format_args!("'{text}'"),
            )
        };
        match text {
            "glorot" => Ok(Self::Glorot),
            "he" => Ok(Self::He),
            _ => {
                let std = text.strip_prefix("normal:").ok_or_else(refuse)?;
                let std: f64 = std.parse().map_err(|_| refuse())?;
                if std > 0.0 && std.is_finite() {
                    Ok(Self::Normal(std))
                } else {
                    Err(refuse())
                }
            }
        }
    }
}

impl Network {
    /// Fills `flat` (length [`Network::flat_len`]) with initial parameters, gaps with 0.
    pub fn initialise(&self, init: Init, seed: u64, flat: &mut [f32]) {
        assert_eq!(
            flat.len(),
            self.flat_len(),
            "the flat parameter vector has the network's length"
        );
        flat.fill(0.0);
        for (index, parameter) in self.parameters.iter().enumerate() {
            initialise_parameter(parameter, index, init, seed, &mut flat[parameter.range()]);
        }
    }
}

fn initialise_parameter(parameter: &Parameter, index: usize, init: Init, seed: u64, values: &mut [f32]) {
    match parameter.role {
        Role::Bias | Role::Shift | Role::RunningMean => values.fill(0.0),
        Role::Scale | Role::RunningVariance => values.fill(1.0),
        Role::Weight => {
            // Of (K, C, R, S) and (out, in) alike: one output reads fan_in elements, one input feeds fan_out.
            let receptive: usize = parameter.dims[2..].iter().product();
            let fan_in = (parameter.dims[1] * receptive) as f64;
            let fan_out = (parameter.dims[0] * receptive) as f64;
            let stream = Stream::new(seed, 0, Purpose::Init, index as u16);
            let mut fill = |draw: &(dyn Fn([u32; 4]) -> f64 + Sync)| {
                values
                    .par_iter_mut()
                    .with_min_len(1 << 14)
                    .enumerate()
                    .for_each(|(i, value)| {
                        *value = draw(stream.block(i as u32)) as f32;
                    });
            };
            match init {
                Init::Glorot => {
                    let limit = libm::sqrt(6.0 / (fan_in + fan_out));
                    fill(&|block| limit * (2.0 * uniform_from(block[0], block[1]) - 1.0));
                }
                Init::He => {
                    let std = libm::sqrt(2.0 / fan_in);
                    fill(&|block| std * normal_from(block));
                }
                Init::Normal(std) => fill(&|block| std * normal_from(block)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Config, Spec};

    #[test]
    fn variances_are_what_the_names_say() {
        let network = Spec {
            width: 0.25,
            crop: 32,
            fc: 256,
            ..Spec::paper(Config::A)
        }
        .build()
        .unwrap();
        let weight = network
            .parameters
            .iter()
            .find(|p| p.name == "features.16.weight")
            .unwrap();
        let fan = (weight.dims[1] * 9) as f64; // as many outputs as inputs
        let mut flat = vec![0.0; network.flat_len()];
        for (init, variance) in [
            (Init::Glorot, 1.0 / fan),
            (Init::He, 2.0 / fan),
            (Init::Normal(0.01), 1e-4),
        ] {
            network.initialise(init, 3, &mut flat);
            let values = &flat[weight.range()];
            let found = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64;
            assert!(
                (found / variance - 1.0).abs() < 0.03,
                "{init}: {found} for {variance}"
            );
        }
    }

    #[test]
    fn text_round_trips() {
        for text in ["glorot", "he", "normal:0.01"] {
            assert_eq!(text.parse::<Init>().unwrap().to_string(), text);
        }
        for text in ["", "xavier", "normal:", "normal:-1", "normal:nan"] {
            assert!(text.parse::<Init>().is_err(), "{text}");
        }
    }
}
