//! The flags of `eval`, `reproduce`, `predict`, `features` and `convert`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::ComputeArgs;
use crate::data::augment::MAX_SCALE;
use crate::data::bad::MaxBad;
use crate::data::shards::IoMode;
use crate::error::{Error, Result};
use crate::eval::{Protocol, ScoreAverage};
use crate::network::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ProtocolArg {
    /// The middle training-size crop of the image rescaled to Q
    Center,
    /// The whole rescaled image: the fully connected layers as convolutions, their score map averaged
    Dense,
    /// The whole rescaled image: the last map averaged down to the trained size, as torchvision's models do
    Adaptive,
    /// 5x5 training-size crops on a regular grid and their mirror images, 50 per scale
    MultiCrop,
    /// The mean of dense and multi-crop
    Both,
}

impl From<ProtocolArg> for Protocol {
    fn from(said: ProtocolArg) -> Self {
        match said {
            ProtocolArg::Center => Self::Center,
            ProtocolArg::Dense => Self::Dense,
            ProtocolArg::Adaptive => Self::Adaptive,
            ProtocolArg::MultiCrop => Self::MultiCrop,
            ProtocolArg::Both => Self::Both,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ScoreAverageArg {
    /// The scores of all windows are averaged, then the soft-max is taken
    Scores,
    /// The soft-max of every window is taken, then the posteriors are averaged
    Posteriors,
}

impl From<ScoreAverageArg> for ScoreAverage {
    fn from(said: ScoreAverageArg) -> Self {
        match said {
            ScoreAverageArg::Scores => Self::Scores,
            ScoreAverageArg::Posteriors => Self::Posteriors,
        }
    }
}

/// Weights, and perhaps the scales of their own: `RUN@224,256,288`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct WeightsArg {
    pub(in crate::cli) path: PathBuf,
    /// Empty where none are said.
    pub(in crate::cli) scales: Vec<usize>,
}

/// Images per batch where none are said.
pub(in crate::cli) const DEFAULT_BATCH: usize = 32;

/// A shorter side Q.
fn scale(text: &str) -> Result<usize> {
    text.parse()
        .ok()
        .filter(|scale| (1..=MAX_SCALE).contains(scale))
        .ok_or_else(|| Error::invalid("a scale", format_args!("1 to {MAX_SCALE} pixels"), text))
}

impl FromStr for WeightsArg {
    type Err = Error;

    /// What follows the last `@` are scales only if they are numbers, and nothing is called by the whole name.
    fn from_str(text: &str) -> Result<Self> {
        let whole = Self {
            path: text.into(),
            scales: Vec::new(),
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        let said = text.rsplit_once('@').filter(|_| !whole.path.exists());
        match said.filter(|(_, scales)| scales.split(',').all(is_number)) {
            None => Ok(whole),
            Some((path, scales)) => Ok(Self {
                path: path.into(),
                scales: scales.split(',').map(scale).collect::<Result<_>>()?,
            }),
        }
    }
}

/// How images are looked at.
#[derive(Debug, Args)]
pub(in crate::cli) struct LookArgs {
    /// How an image is looked at [default: center]
    #[arg(long)]
    pub(in crate::cli) protocol: Option<ProtocolArg>,
    /// Shorter sides Q of the test images in pixels; posteriors are averaged over several [default: the training scale,
    /// or its middle]
    #[arg(long, value_name = "Q,Q", value_delimiter = ',', value_parser = scale)]
    pub(in crate::cli) scales: Vec<usize>,
    /// Look at the mirror image too, and average the posteriors; multi-crop always does
    #[arg(long)]
    pub(in crate::cli) flip: bool,
    /// Whether the score map of dense is averaged before or after the soft-max; `eval` reports both [default: scores]
    #[arg(long)]
    pub(in crate::cli) score_average: Option<ScoreAverageArg>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EvalArgs {
    /// The shard folder; its validation split is evaluated
    #[arg(long, value_name = "SHARDS")]
    pub(in crate::cli) data: PathBuf,
    /// A run folder (its newest whole checkpoint), a checkpoint or a safetensors file; with scales of its own as
    /// RUN@Q,Q. Given several times, the posteriors of the networks are averaged
    #[arg(long, value_name = "RUN|FILE", required_unless_present = "posteriors")]
    pub(in crate::cli) weights: Vec<WeightsArg>,
    /// Posteriors that --save-posteriors wrote, to be averaged with the others without computing them again
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) posteriors: Vec<PathBuf>,
    /// Write the averaged posteriors of every image for a later --posteriors
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) save_posteriors: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) look: LookArgs,
    /// Images per batch; the result does not depend on it [default: 32]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) batch: Option<usize>,
    /// End with exit 7 where more images than this cannot be read: a number, or a share of all such as 0.1%
    #[arg(long, value_name = "N|P%")]
    pub(in crate::cli) max_bad: Option<MaxBad>,
    /// How shards are read
    #[arg(long, default_value = "mmap")]
    pub(in crate::cli) io: IoMode,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PredictArgs {
    /// A run folder (its newest whole checkpoint), a checkpoint or a safetensors file
    #[arg(long, value_name = "RUN|FILE")]
    pub(in crate::cli) weights: PathBuf,
    /// Images to classify, or folders whose images are taken in the order of their paths; `-` is standard input. Those that
    /// cannot be read are named, the others classified; the exit code is 7 then
    #[arg(required = true, value_name = "IMAGE|DIR")]
    pub(in crate::cli) images: Vec<PathBuf>,
    /// Classes to name per image [default: 5, or all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) top: Option<usize>,
    #[command(flatten)]
    pub(in crate::cli) look: LookArgs,
    /// Views per batch; the result does not depend on it
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BATCH)]
    pub(in crate::cli) batch: usize,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum TableArg {
    /// Single networks at one test scale
    Table3,
    /// Single networks at three test scales
    Table4,
    /// Dense, multi-crop and both
    Table5,
    /// Fusion of networks
    Table6,
    /// Comparison with other systems, whose numbers are as published
    Table7,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReproduceArgs {
    /// Which tables; what several of them need is computed once
    #[arg(required = true, value_name = "TABLE")]
    pub(in crate::cli) tables: Vec<TableArg>,
    /// The shard folder; its validation split is evaluated
    #[arg(long, value_name = "SHARDS")]
    pub(in crate::cli) data: PathBuf,
    /// A network of the paper and its weights: CONFIG/256, CONFIG/384 or CONFIG/256..512 as the paper trains them, each once,
    /// and a run or file. A run that was trained at other scales is tested at scales in proportion: one S or a range, as the
    /// name says
    #[arg(long, value_name = "NAME=RUN|FILE")]
    pub(in crate::cli) weights: Vec<String>,
    /// Views per batch; the result does not depend on it
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BATCH)]
    pub(in crate::cli) batch: usize,
    /// End with exit 7 where more images than this cannot be read: a number, or a share of all such as 0.1%
    #[arg(long, value_name = "N|P%")]
    pub(in crate::cli) max_bad: Option<MaxBad>,
    /// How shards are read
    #[arg(long, default_value = "mmap")]
    pub(in crate::cli) io: IoMode,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ScalesArg {
    /// Their mean
    Average,
    /// One after the other
    Stack,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct FeaturesArgs {
    /// A run folder (its newest whole checkpoint), a checkpoint or a safetensors file
    #[arg(long, value_name = "RUN|FILE")]
    pub(in crate::cli) weights: PathBuf,
    /// Images, or folders whose images are taken in the order of their paths; `-` is standard input
    #[arg(required = true, value_name = "IMAGE|DIR")]
    pub(in crate::cli) images: Vec<PathBuf>,
    /// The file to write: an array (images, features) of f32
    #[arg(long, value_name = "F.npy|F.safetensors")]
    pub(in crate::cli) out: PathBuf,
    /// Whose values, by the names of `verydeep plan`: those of convolutions and of fc6 and fc7 are behind their ReLU; maps
    /// are averaged over their pixels
    #[arg(long, default_value = "fc7")]
    pub(in crate::cli) layer: String,
    /// How an image is looked at; the features of all views are averaged
    #[arg(long, default_value = "dense")]
    pub(in crate::cli) protocol: ProtocolArg,
    /// Shorter sides Q in pixels [default: the training scale, or its middle]
    #[arg(long, value_name = "Q,Q", value_delimiter = ',', value_parser = scale)]
    pub(in crate::cli) scales: Vec<usize>,
    /// What becomes of several scales
    #[arg(long, default_value = "average")]
    pub(in crate::cli) across_scales: ScalesArg,
    /// Average with the mirror image
    #[arg(long)]
    pub(in crate::cli) flip: bool,
    /// Leave the features as long as they are; else every image's have length 1, at every scale and in the end
    #[arg(long)]
    pub(in crate::cli) raw: bool,
    /// Views per batch; the result does not depend on it
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BATCH)]
    pub(in crate::cli) batch: usize,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum FromArg {
    /// A state dictionary of PyTorch 1.6 or later (.pth, .pt)
    Torch,
    /// Safetensors with torchvision's names
    Safetensors,
    /// A graph of VGG's shape, its weights in the same file
    Onnx,
    /// Caffe's .caffemodel, of either format of layers
    Caffe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ToArg {
    /// With torchvision's names
    Safetensors,
    /// A graph from preprocessed images to scores
    Onnx,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ConvertArgs {
    /// A run folder, a checkpoint, or a weights file of this or another program
    #[arg(value_name = "IN")]
    pub(in crate::cli) input: PathBuf,
    /// The file to write; what is there is replaced
    #[arg(value_name = "OUT")]
    pub(in crate::cli) output: PathBuf,
    /// What the weights must be of [default: whatever they fit]
    #[arg(long)]
    pub(in crate::cli) config: Option<Config>,
    /// Take the convolutions alone, whatever stands behind them: for `features` and `train --init-from`
    #[arg(long)]
    pub(in crate::cli) trunk: bool,
    /// Format of IN [default: by its content]
    #[arg(long)]
    pub(in crate::cli) from: Option<FromArg>,
    /// Format of OUT [default: by its name, .safetensors or .onnx]
    #[arg(long)]
    pub(in crate::cli) to: Option<ToArg>,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_last_at_sign() {
        let read = |text: &str| text.parse::<WeightsArg>().unwrap();
        let own = read("runs/d@224,256,288");
        assert_eq!((own.path, own.scales), ("runs/d".into(), vec![224, 256, 288]));
        for plain in ["runs/d", "runs/d@best", "a@b/c", "x@", "x@1,,2"] {
            let said = read(plain);
            assert_eq!((said.path, said.scales), (plain.into(), vec![]));
        }
        for beyond in ["x@0", "x@224,65536", "x@18446744073709551616"] {
            let refused = beyond.parse::<WeightsArg>().unwrap_err().to_string();
            assert!(refused.contains("expected 1 to 65535 pixels"), "{refused}");
        }
    }
}
