//! `verydeep plan --gpu`: which forecasts were asked for.

use serde_json::Value;

use super::args::{ForecastPrecision, PlanArgs};
use super::forecast_cluster::ClusterForecast;
use super::forecast_gpu::GpuForecast;
use super::output::say;
use crate::backend::Precision;
use crate::backend::cuda::CudaLowering;
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::{Network, Spec};
use crate::plan::{Arithmetic, Cluster, Gpu, Mode, Plan};

/// What is forecast of a training step by data sheets.
pub(super) struct Forecasts {
    /// The whole batch on one GPU.
    gpu: GpuForecast,
    cluster: Option<ClusterForecast>,
}

impl Forecasts {
    /// `None` without `--gpu`.
    pub(super) fn of(
        args: &PlanArgs,
        network: &Network,
        [micro_batches, micro_batch]: [usize; 2],
        cluster: Option<Cluster>,
    ) -> Result<Option<Self>> {
        let Some(name) = &args.gpu else {
            return Ok(None);
        };
        let arithmetic = arithmetic(args.precision);
        let plan = Plan::new(
            network,
            &Preprocess::subtract_mean([0.0; 3]),
            micro_batch,
            Mode::Training,
            &stored_in(args.precision),
        )?;
        // Public figures are of the paper's networks, whatever the number of classes.
        let papers = Spec {
            classes: args.classes,
            ..Spec::paper(args.config)
        };
        let is_papers = args.network.spec(args.config, args.classes, None) == papers;
        let network = (args.config, &plan);
        let gpu = GpuForecast::new(Gpu::by_name(name)?, arithmetic, network, micro_batches, is_papers)?;
        let order = args.walk.unwrap_or_default();
        let on_several =
            |cluster| ClusterForecast::new(cluster, arithmetic, network, (order, micro_batches), is_papers);
        let cluster = cluster.map(on_several).transpose()?;
        Ok(Some(Self { gpu, cluster }))
    }

    /// The objects under `gpu` and `cluster` in `plan --json`.
    pub(super) fn json(&self) -> [Option<Value>; 2] {
        [
            Some(self.gpu.json()),
            self.cluster.as_ref().map(ClusterForecast::json),
        ]
    }

    /// For people.
    pub(super) fn say(&self) {
        say("");
        self.gpu.say();
        if let Some(cluster) = &self.cluster {
            say("");
            cluster.say();
        }
    }
}

/// The GPUs that were asked for; `None` without `--nodes` and `--gpus`.
pub(super) fn cluster(args: &PlanArgs) -> Result<Option<Cluster>> {
    let Some(name) = args.gpu.as_ref().filter(|_| args.nodes.or(args.gpus).is_some()) else {
        return Ok(None);
    };
    let gpu = Gpu::by_name(name)?;
    Cluster::new(gpu, args.nodes.unwrap_or(1), args.gpus.unwrap_or(1)).map(Some)
}

/// How a plan in that precision lies in memory.
pub(super) fn stored_in(precision: Option<ForecastPrecision>) -> CudaLowering {
    let precision = match precision {
        None | Some(ForecastPrecision::Fp32) => Precision::Fp32,
        Some(ForecastPrecision::Tf32) => Precision::Tf32,
        // As wide as bf16.
        Some(ForecastPrecision::Bf16 | ForecastPrecision::Fp16) => Precision::Bf16,
    };
    CudaLowering { precision }
}

fn arithmetic(precision: Option<ForecastPrecision>) -> Arithmetic {
    match precision {
        None | Some(ForecastPrecision::Fp32) => Arithmetic::Fp32,
        Some(ForecastPrecision::Tf32) => Arithmetic::Tf32,
        Some(ForecastPrecision::Bf16) => Arithmetic::Bf16,
        Some(ForecastPrecision::Fp16) => Arithmetic::Fp16,
    }
}
