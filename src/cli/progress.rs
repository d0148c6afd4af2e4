//! How a run looks while it goes: a bar on a terminal, a line now and then elsewhere; all of it on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::note;
use crate::train::event::{Event, Observer};

/// Seconds between two lines where nobody watches.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the events of a run.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last_line: Option<Instant>,
    total_steps: u64,
}

impl Progress {
    /// Shows everything, or with `quiet` only warnings and bad samples.
    pub(super) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}")
                .expect("the template is well-formed");
            ProgressBar::new(0).with_style(style)
        });
        Self {
            bar,
            quiet,
            last_line: None,
            total_steps: 0,
        }
    }

    fn line(&self, text: impl std::fmt::Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(&text)),
            None => note(&text),
        }
    }
}

impl Observer for Progress {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Warning { step, message } => self.line(format_args!("step {step}: warning: {message}")),
            Event::BadSample { sample, action, .. } => {
                let action = serde_json::to_value(action).unwrap_or_default();
                self.line(format_args!(
                    "bad sample, {}: {sample}",
                    action.as_str().unwrap_or_default()
                ));
            }
            Event::Start {
                passed_over,
                step,
                total_steps,
                ..
            } => {
                self.total_steps = *total_steps;
                for reason in passed_over {
                    self.line(format_args!("passed over: {reason}"));
                }
                if let Some(bar) = &self.bar {
                    bar.set_length(*total_steps);
                    bar.set_position(*step);
                    bar.reset_eta();
                }
            }
            _ if self.quiet => {}
            Event::Step {
                step,
                epoch,
                loss,
                lr,
                images_per_sec,
                data_stall,
                ..
            } => {
                let text =
                    format!("epoch {epoch:.2}, loss {loss:.4}, lr {lr:.2e}, {images_per_sec:.1} images/s");
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                    bar.set_message(text);
                } else if self.last_line.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
                    self.last_line = Some(Instant::now());
                    self.line(format_args!(
                        "step {step}/{}: {text}, waited {data_stall:.3} s for data",
                        self.total_steps
                    ));
                }
            }
            Event::Validation {
                step,
                top1,
                top5,
                loss,
                n,
                ..
            } => self.line(format_args!(
                "step {step}: validation top-1 {top1:.2} %, top-5 {top5:.2} %, loss {loss:.4} ({n} images)"
            )),
            Event::End { .. } => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
            }
            Event::Checkpoint { .. } | Event::Audit { .. } | Event::Folds { .. } => {}
        }
    }
}
