//! Lets cuDNN plan every convolution of networks A to E for a described device, without one. `tools/cuda-gates cudnn`
//! runs it for several devices and makes the table.
//!
//!     cudnn_plans LIBRARIES DEVICE.json PRECISION MICRO_BATCH
//!
//! One JSON object a line, for each pass of each convolution: what was offered and what training would take. Then the
//! same, with `dense`, for the forward convolutions of dense evaluation: single images of several sizes.

use std::io::Write;
use std::path::PathBuf;

use verydeep::backend::Precision;
use verydeep::backend::cuda::CudaLowering;
use verydeep::backend::cuda::described::DescribedDevice;
use verydeep::backend::cuda::libraries::Libraries;
use verydeep::data::preprocess::Preprocess;
use verydeep::network::{Builder, Config, Network, Op, Spec};
use verydeep::plan::{Mode, Plan};
use verydeep::shape::Chw;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [libraries, device, precision, micro_batch] = &arguments[..] else {
        return Err("usage: cudnn_plans LIBRARIES DEVICE.json PRECISION MICRO_BATCH".into());
    };
    let precision = Precision::ALL
        .into_iter()
        .find(|known| known.name() == precision)
        .ok_or("PRECISION: fp32, tf32 or bf16")?;
    let libraries = Libraries::load(&[PathBuf::from(libraries)])?;
    let device = DescribedDevice::new(libraries, &std::fs::read_to_string(device)?)?;
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    let micro_batch = micro_batch.parse()?;
    let mut plans = Vec::new();
    for config in Config::all() {
        let network = Spec::paper(config).build()?;
        for mode in [Mode::Training, Mode::Evaluation] {
            plans.push(Plan::new(
                &network,
                &preprocess,
                micro_batch,
                mode,
                &CudaLowering { precision },
            )?);
        }
    }
    let mut out = std::io::stdout().lock();
    for planned in device.plan(&plans, precision)? {
        writeln!(out, "{}", serde_json::to_string(&planned)?)?;
    }
    let mut dense = Vec::new();
    for config in Config::all() {
        let network = Spec::paper(config).build()?;
        for (h, w) in DENSE_SIZES {
            let network = convolutions_on(&network, Chw::new(3, h, w))?;
            dense.push(Plan::new(
                &network,
                &preprocess,
                1,
                Mode::Evaluation,
                &CudaLowering { precision },
            )?);
        }
    }
    for planned in device.plan(&dense, precision)? {
        let mut line = serde_json::to_value(&planned)?;
        line["dense"] = true.into();
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Heights and widths of images as dense evaluation sees them: photographs of ImageNet rescaled to Q = 256, 384 and 512.
const DENSE_SIZES: [(usize, usize); 4] = [(256, 341), (384, 384), (384, 512), (512, 683)];

/// The layers before the first fully connected one, on images of another size.
fn convolutions_on(network: &Network, image: Chw) -> Result<Network, Box<dyn std::error::Error>> {
    let mut other = Builder::new(image);
    for layer in &network.layers {
        let name = layer.name.clone();
        match layer.op {
            Op::Conv { kernel } => other.conv(name, kernel, layer.output.c),
            Op::BatchNorm => other.batch_norm(name),
            Op::Relu => other.relu(name),
            Op::Lrn => other.lrn(name),
            Op::MaxPool => other.max_pool(name)?,
            Op::AveragePool { .. } | Op::Linear | Op::Windowed { .. } | Op::Dropout { .. } => break,
        }
    }
    Ok(other.finish())
}
