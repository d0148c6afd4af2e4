//! The input pipeline alone: from shards to finished network inputs.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::machine::processor_seconds;
use crate::data::augment::{ScaleRange, Views};
use crate::data::loader::{Config, Loader, Mode, OnBad, Positions};
use crate::data::order::Order;
use crate::data::preprocess::{Preprocess, finish};
use crate::data::shards::Dataset;
use crate::error::Result;

/// What a measurement of the pipeline found. Times of the stages are seconds per image, on the thread that did it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PipelineRate {
    /// Images per second.
    pub images_per_sec: f64,
    /// Images per second of processor time, of all threads: what one core does when it does nothing else. Neither waits
    /// for a disk nor other programs count.
    pub images_per_sec_per_core: f64,
    /// Worker threads; finishing is done by one more.
    pub threads: usize,
    /// Compressed bytes read per second.
    pub bytes_per_sec: f64,
    /// Finding and reading the compressed bytes, waits for the disk included.
    pub read: f64,
    /// Compressed bytes to source pixels.
    pub decode: f64,
    /// Source pixels to the crop.
    pub resize: f64,
    /// Crop to the network's input.
    pub finish: f64,
    /// Seconds in which all slots were empty and finishing waited: loading is what limits.
    pub consumer_waited: f64,
    /// Seconds that the workers, together, had no slot to fill: finishing is what limits.
    pub workers_waited: f64,
    /// Images measured.
    pub images: u64,
}

/// Images of one slot.
const MICRO_BATCH: usize = 32;

/// Runs `images` training images of `data` through `threads` workers and finishes each on the calling thread.
pub fn pipeline(
    data: Arc<Dataset>,
    scale: ScaleRange,
    crop: usize,
    threads: usize,
    images: u64,
) -> Result<PipelineRate> {
    let preprocess = Preprocess::subtract_mean(data.manifest().mean_rgb);
    let config = Config {
        threads,
        slots: 3,
        positions: Positions::from(0, MICRO_BATCH)?.until(images),
        views: Views::augmented(1, crop, scale, data.manifest().pca_rgb)?,
        mode: Mode::Train {
            order: Order::new(1, data.len())?,
            on_bad: OnBad::Skip,
        },
    };
    let mut input = vec![0.0; 3 * crop * crop];
    let mut finishing = 0.0;
    let (started, computed) = (Instant::now(), processor_seconds());
    let mut loader = Loader::new(data, config)?;
    while let Some(slot) = loader.next_slot()? {
        let finish_started = Instant::now();
        for row in 0..slot.samples {
            finish(
                slot.image(row),
                crop,
                slot.flips[row],
                slot.colours[row],
                &preprocess,
                &mut input,
            );
        }
        finishing += finish_started.elapsed().as_secs_f64();
    }
    let (seconds, computed) = (started.elapsed().as_secs_f64(), processor_seconds() - computed);
    let stats = loader.stats();
    let per_image = |time: std::time::Duration| time.as_secs_f64() / stats.images as f64;
    Ok(PipelineRate {
        images_per_sec: images as f64 / seconds,
        images_per_sec_per_core: images as f64 / computed,
        threads,
        bytes_per_sec: stats.bytes as f64 / seconds,
        read: per_image(stats.read),
        decode: per_image(stats.decode),
        resize: per_image(stats.resize),
        finish: finishing / images as f64,
        consumer_waited: stats.consumer_waited.as_secs_f64(),
        workers_waited: stats.workers_waited.as_secs_f64(),
        images,
    })
}
