//! `verydeep pack` and `verydeep verify`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::args::{PackArgs, VerifyArgs};
use super::output::{note, print_json, say};
use crate::data::manifest::Stored;
use crate::data::pack::{PackOptions, PackProgress, Source};
use crate::data::verify;
use crate::error::{Error, Result};

pub(super) fn pack(args: &PackArgs) -> Result<u8> {
    let source = source(args)?;
    let images = match (args.max_short, args.quality) {
        (Some(max_short), Some(quality)) => Stored::Reencoded { max_short, quality },
        _ => Stored::Original,
    };
    let options = PackOptions {
        shard_size: args.shard_size,
        seed: args.seed,
        images,
        on_bad: args.on_bad,
        max_bad: args.max_bad,
    };
    let ticker = Ticker::new();
    let report = crate::data::pack::pack(&source, &args.out, &options, &|progress| tell(&ticker, progress))?;
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

/// Says how far packing is now and then, and everything else at once.
fn tell(ticker: &Ticker, progress: PackProgress) {
    match progress {
        PackProgress::Listed { done, total } => {
            ticker.tick(|| format!("listed the images of {done} of {total} classes or shards"));
        }
        PackProgress::Checked { done, total } => {
            ticker.tick(|| format!("checked {done} of {total} finished shards"));
        }
        PackProgress::Packed { split, done, total } => {
            ticker.tick(|| format!("packed {done} of {total} {} images", split.as_str()));
        }
        PackProgress::NotUsed { shards, reason } => {
            note(format_args!(
                "{shards} shards of an unfinished pack are not used: {reason}"
            ));
        }
        PackProgress::TakenOver { shards, images } => {
            note(format_args!(
                "going on after {shards} finished shards, {images} images"
            ));
        }
        PackProgress::Stays { folder } => note(format_args!(
            "the shards that are whole stay in {}; the same command goes on after them",
            folder.display()
        )),
    }
}

/// Where the images come from.
fn source(args: &PackArgs) -> Result<Source> {
    match (
        &args.images,
        &args.shards,
        &args.ilsvrc_train,
        &args.ilsvrc_val,
        &args.val_labels,
    ) {
        (Some(images), None, None, ..) => Ok(Source::Folder {
            images: images.clone(),
        }),
        (None, Some(shards), None, ..) => Ok(Source::Shards {
            shards: shards.clone(),
            class_names: args.class_names.clone(),
        }),
        (None, None, Some(train), Some(val), Some(labels)) => Ok(Source::Ilsvrc {
            train: train.clone(),
            val: val.clone(),
            val_labels: labels.clone(),
        }),
        _ => Err(Error::Usage(
            "pack: expected --images DIR, or --shards DIR, or --ilsvrc-train, --ilsvrc-val and --val-labels together"
                .into(),
        )),
    }
}

pub(super) fn verify(args: &VerifyArgs) -> Result<u8> {
    let ticker = Ticker::new();
    let progress = |at: verify::VerifyProgress| {
        ticker.tick(|| format!("verified {} of {} shards", at.done, at.total));
    };
    let Some(out) = &args.repair else {
        let report = verify::verify(&args.path, &progress)?;
        return Ok(show(args, &report, &report));
    };
    let repaired = verify::repair(&args.path, out, &progress)?;
    let code = show(args, &repaired, &repaired.verified);
    if !args.json {
        let left_out = repaired.verified.samples - repaired.kept;
        say(format_args!(
            "{}: {} samples kept, {left_out} left out",
            out.display(),
            repaired.kept
        ));
    }
    Ok(code)
}

/// Prints `object` as JSON, or `report` for people; gives the exit code.
fn show(args: &VerifyArgs, object: &impl serde::Serialize, report: &verify::VerifyReport) -> u8 {
    if args.json {
        print_json(object);
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
    if report.bad.is_empty() { 0 } else { 7 }
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
