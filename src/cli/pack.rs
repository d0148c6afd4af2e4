//! `verydeep pack` and `verydeep verify`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::args::{PackArgs, PathArgs};
use super::output::{note, print_json, say};
use crate::data::manifest::Stored;
use crate::data::pack::{PackOptions, Source};
use crate::data::verify;
use crate::error::{Error, Result};

pub(super) fn pack(args: &PackArgs) -> Result<u8> {
    let source = match (
        &args.images,
        &args.ilsvrc_train,
        &args.ilsvrc_val,
        &args.val_labels,
    ) {
        (Some(images), None, ..) => Source::Folder {
            images: images.clone(),
        },
        (None, Some(train), Some(val), Some(labels)) => Source::Ilsvrc {
            train: train.clone(),
            val: val.clone(),
            val_labels: labels.clone(),
        },
        _ => {
            return Err(Error::Usage(
                "pack: expected --images DIR, or --ilsvrc-train, --ilsvrc-val and --val-labels together"
                    .into(),
            ));
        }
    };
    let images = match (args.max_short, args.quality) {
        (Some(max_short), Some(quality)) => Stored::Reencoded { max_short, quality },
        _ => Stored::Original,
    };
    let options = PackOptions {
        shard_size: args.shard_size,
        seed: args.seed,
        images,
        on_bad: args.on_bad,
    };
    let ticker = Ticker::new();
    let report = crate::data::pack::pack(&source, &args.out, &options, &|at| {
        ticker.tick(|| format!("packed {} of {} {} images", at.done, at.total, at.split.as_str()));
    })?;
    if args.json {
        print_json(&report);
        return Ok(0);
    }
    for (what, samples) in [("left out", &report.bad), ("kept, but odd", &report.odd)] {
        samples
            .iter()
            .for_each(|sample| say(format_args!("{what}: {sample}")));
    }
    if !report.renamed.is_empty() {
        say(format_args!(
            "{} images got another key than their name; manifest.json lists them",
            report.renamed.len()
        ));
    }
    say(format_args!(
        "{}: {} training and {} validation images of {} classes in {} shards, {:.1} MB; mean RGB {:.2?}",
        args.out.display(),
        report.samples.train,
        report.samples.validation,
        report.classes,
        report.shards,
        report.bytes as f64 / 1e6,
        report.mean_rgb
    ));
    Ok(0)
}

pub(super) fn verify(args: &PathArgs) -> Result<u8> {
    let ticker = Ticker::new();
    let report = verify::verify(&args.path, &|at| {
        ticker.tick(|| format!("verified {} of {} shards", at.done, at.total));
    })?;
    if args.json {
        print_json(&report);
    } else {
        report
            .bad
            .iter()
            .for_each(|sample| say(format_args!("bad: {sample}")));
        say(format_args!(
            "{}: {} samples in {} shards, {} bad",
            args.path.display(),
            report.samples,
            report.shards,
            report.bad.len()
        ));
    }
    Ok(if report.bad.is_empty() { 0 } else { 7 })
}

/// A line on standard error every few seconds, from whichever thread.
struct Ticker(Mutex<Instant>);

impl Ticker {
    const INTERVAL: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn tick(&self, line: impl FnOnce() -> String) {
        // A thread that finds the lock taken has nothing new to say.
        if let Ok(mut last) = self.0.try_lock()
            && last.elapsed() >= Self::INTERVAL
        {
            *last = Instant::now();
            note(line());
        }
    }
}
