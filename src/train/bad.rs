//! The bad samples of a run: each once, however often it is met.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::bad::MaxBad;
use crate::data::loader::{Action, BadEvent};
use crate::data::manifest::Split;
use crate::durable::AppendFile;
use crate::error::{BadSample, Error, Result};

/// The file in a run folder that names them; absent while there are none.
pub const BAD_SAMPLES: &str = "bad.jsonl";

/// Counts the samples that cannot be used, since the process started, against the limit.
#[derive(Debug)]
pub(super) struct BadCount {
    limit: Option<MaxBad>,
    /// Shard and offset of each, training and validation.
    unusable: [HashSet<(String, u64)>; 2],
}

impl BadCount {
    pub(super) fn new(limit: Option<MaxBad>) -> Self {
        Self {
            limit,
            unusable: Default::default(),
        }
    }

    /// Counts a sample of a split that has `samples`.
    pub(super) fn add(&mut self, split: Split, samples: u64, event: &BadEvent) -> Result<()> {
        let BadSample { shard, offset, .. } = &event.sample;
        match event.action {
            Action::Kept => return Ok(()),
            Action::Replaced | Action::LeftOut => {}
        }
        let Some(limit) = self.limit else { return Ok(()) };
        let unusable = &mut self.unusable[split as usize];
        unusable.insert((shard.clone(), *offset));
        limit.check(unusable.len() as u64, samples, &event.sample)
    }
}

/// A line of the list.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    sample: BadSample,
    action: Action,
}

/// The list in the run folder. What it names stays in it when a run goes on from an earlier step.
pub(super) struct BadList {
    path: PathBuf,
    /// Absent while nothing is listed.
    file: Option<AppendFile>,
    listed: HashSet<(String, u64)>,
}

impl BadList {
    /// Reads the list of a run, which need not exist, and forgets a last line that a kill left torn.
    pub(super) fn open(run: &Path) -> Result<Self> {
        let path = run.join(BAD_SAMPLES);
        let mut listed = HashSet::new();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    file: None,
                    listed,
                });
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let mut whole = 0;
        for line in text.split_inclusive('\n') {
            let Ok(Line { sample, .. }) = serde_json::from_str(line) else {
                break;
            };
            if !line.ends_with('\n') {
                break;
            }
            whole += line.len();
            listed.insert((sample.shard, sample.offset));
        }
        Ok(Self {
            file: Some(AppendFile::open(&path, whole as u64)?),
            path,
            listed,
        })
    }

    /// Adds a sample, unless it is there.
    pub(super) fn add(&mut self, sample: &BadSample, action: Action) -> Result<()> {
        if !self.listed.insert((sample.shard.clone(), sample.offset)) {
            return Ok(());
        }
        let line = Line {
            sample: sample.clone(),
            action,
        };
        let text = serde_json::to_string(&line).expect("plain data serialises") + "\n";
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(AppendFile::open(&self.path, 0)?),
        };
        file.append(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset: u64) -> BadSample {
        BadSample {
            shard: "x.tar".into(),
            offset,
            key: format!("k{offset}"),
            reason: "green".into(),
        }
    }

    #[test]
    fn every_sample_stands_in_the_list_once_also_after_a_kill() {
        let run = tempfile::tempdir().expect("a folder");
        let path = run.path().join(BAD_SAMPLES);
        let mut list = BadList::open(run.path()).expect("no list yet");
        assert!(!path.exists());
        for offset in [512, 1024, 512] {
            list.add(&sample(offset), Action::Replaced).expect("a line");
        }
        let text = fs::read_to_string(&path).expect("a list");
        assert_eq!(text.lines().count(), 2);
        assert_eq!(
            text.lines().next(),
            Some(r#"{"shard":"x.tar","offset":512,"key":"k512","reason":"green","action":"replaced"}"#)
        );

        fs::write(&path, &text[..text.len() - 5]).expect("a torn list");
        let mut list = BadList::open(run.path()).expect("one line");
        for offset in [512, 1024] {
            list.add(&sample(offset), Action::Replaced).expect("a line");
        }
        assert_eq!(fs::read_to_string(&path).expect("a list"), text);
    }

    #[test]
    fn the_same_sample_counts_once_and_splits_apart() {
        let event = |offset, action| BadEvent {
            position: 0,
            sample: sample(offset),
            action,
        };
        let mut count = BadCount::new(Some(MaxBad::Count(1)));
        for _ in 0..3 {
            count
                .add(Split::Train, 10, &event(512, Action::Replaced))
                .expect("one");
        }
        count
            .add(Split::Train, 10, &event(1024, Action::Kept))
            .expect("usable");
        count
            .add(Split::Validation, 10, &event(512, Action::LeftOut))
            .expect("another split");
        let error = count
            .add(Split::Train, 10, &event(2048, Action::Replaced))
            .expect_err("two");
        assert_eq!(error.exit_code(), 7);
        let mut unlimited = BadCount::new(None);
        unlimited
            .add(Split::Train, 1, &event(512, Action::Replaced))
            .expect("no limit");
    }
}
