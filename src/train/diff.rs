//! Which of two runs' numbers differ first.

use std::collections::HashMap;

use serde::Serialize;

use super::event::{Event, Fold};
use super::log::Line;
use crate::error::{Error, Result};
use crate::exec::FoldOf;

/// The first difference between two runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Finished steps, the differing one included.
    pub step: u64,
    /// Micro-batch within the step.
    pub micro_batch: usize,
    /// The layer.
    pub layer: String,
    /// What differs.
    pub pass: FoldOf,
    /// The first run's fold.
    pub left: String,
    /// The second run's fold.
    pub right: String,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Whether every step that both runs have is equal.
    pub equal: bool,
    /// Steps that both runs have folds of.
    pub steps: u64,
    /// The first difference, in the order of computation.
    pub first: Option<Difference>,
}

/// Compares the folds of two logs, named for the error message. Errors where they have no step in common.
pub fn diff(left: (&str, &[Line]), right: (&str, &[Line])) -> Result<Comparison> {
    for (name, lines) in [left, right] {
        if folds(lines).next().is_none() {
            return Err(Error::invalid_hint(
                name,
                "a log with folds",
                "none",
                "train with --folds to be able to compare runs",
            ));
        }
    }
    let others: HashMap<u64, &[Fold]> = folds(right.1).collect();
    let mut steps = 0;
    for (step, mine) in folds(left.1) {
        let Some(theirs) = others.get(&step) else { continue };
        steps += 1;
        if let Some(first) = first_difference(step, mine, theirs)? {
            return Ok(Comparison {
                equal: false,
                steps,
                first: Some(first),
            });
        }
    }
    if steps == 0 {
        return Err(Error::invalid(
            format_args!("{} and {}", left.0, right.0),
            "a step in common",
            "none",
        ));
    }
    Ok(Comparison {
        equal: true,
        steps,
        first: None,
    })
}

fn folds(lines: &[Line]) -> impl Iterator<Item = (u64, &[Fold])> {
    lines.iter().filter_map(|line| match &line.event {
        Event::Folds { step, folds } => Some((*step, folds.as_slice())),
        Event::Start { .. }
        | Event::Step { .. }
        | Event::Validation { .. }
        | Event::Checkpoint { .. }
        | Event::BadSample { .. }
        | Event::Warning { .. }
        | Event::Audit { .. }
        | Event::End { .. } => None,
    })
}

/// The first fold of `left`, in its order, that `right` has otherwise. The order may differ: walks do.
fn first_difference(step: u64, left: &[Fold], right: &[Fold]) -> Result<Option<Difference>> {
    let key = |fold: &Fold| (fold.micro_batch, fold.layer.clone(), fold.pass);
    let others: HashMap<_, &Fold> = right.iter().map(|fold| (key(fold), fold)).collect();
    let mut found = 0;
    for a in left {
        let Some(b) = others.get(&key(a)) else { continue };
        found += 1;
        if a.fold != b.fold {
            return Ok(Some(Difference {
                step,
                micro_batch: a.micro_batch,
                layer: a.layer.clone(),
                pass: a.pass,
                left: a.fold.clone(),
                right: b.fold.clone(),
            }));
        }
    }
    if found == left.len() && found == right.len() {
        return Ok(None);
    }
    let count = |folds: &[Fold]| format!("{} folds", folds.len());
    Err(Error::invalid_hint(
        format_args!("step {step}"),
        format_args!("the same layers and micro-batches in both runs ({})", count(left)),
        count(right),
        "the runs are of different networks or micro-batch sizes",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, folds: &[(&str, &str)]) -> Line {
        let fold = |(layer, fold): &(&str, &str)| Fold {
            micro_batch: 0,
            layer: (*layer).into(),
            pass: FoldOf::Forward,
            fold: (*fold).into(),
        };
        Line {
            time: 0.0,
            event: Event::Folds {
                step,
                folds: folds.iter().map(fold).collect(),
            },
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let left = [
            line(1, &[("a", "0"), ("b", "1")]),
            line(2, &[("a", "2"), ("b", "3")]),
        ];
        let right = [
            line(1, &[("a", "0"), ("b", "1")]),
            line(2, &[("a", "2"), ("b", "4")]),
        ];
        let found = diff(("l", &left), ("r", &right)).unwrap();
        let first = found.first.unwrap();
        assert_eq!(
            (
                first.step,
                first.layer.as_str(),
                first.left.as_str(),
                first.right.as_str()
            ),
            (2, "b", "3", "4")
        );
        assert!(diff(("l", &left), ("l", &left)).unwrap().equal);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let left = [line(1, &[("a", "0")])];
        for right in [
            vec![],
            vec![line(2, &[("a", "0")])],
            vec![line(1, &[("b", "0")])],
            vec![line(1, &[])],
        ] {
            assert_eq!(diff(("l", &left), ("r", &right)).unwrap_err().exit_code(), 3);
        }
    }
}
