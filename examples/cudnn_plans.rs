//! Lets cuDNN plan every convolution of networks A to E for a described device, without one. `tools/cuda-gates cudnn`
//! runs it for several devices and makes the table.
//!
//!     cudnn_plans LIBRARIES DEVICE.json PRECISION MICRO_BATCH
//!
//! One JSON object a line, for each pass of each convolution: what was offered and what training would take.

use std::io::Write;
use std::path::PathBuf;

use verydeep::backend::Precision;
use verydeep::backend::cuda::CudaLowering;
use verydeep::backend::cuda::described::DescribedDevice;
use verydeep::backend::cuda::libraries::Libraries;
use verydeep::data::preprocess::Preprocess;
use verydeep::network::{Config, Spec};
use verydeep::plan::{Mode, Plan};

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
    Ok(())
}
