//! `log.jsonl`: one JSON object a line, each flushed as it happens.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::durable::AppendFile;
use crate::error::{Error, Result};

/// A line: the event and when it happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since 1970, UTC.
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Appends to a run's log.
pub struct RunLog {
    file: AppendFile,
    /// Lines that could not be written; they go before the next one.
    pending: Vec<u8>,
}

impl RunLog {
    /// Opens the log of a run that goes on after `step` finished steps: forgets what the log says of later steps, which will
    /// happen again, and a last line that a kill left torn. A run without a log gets one.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let keep = match File::open(path) {
            Ok(file) => end_of_step(file, step).map_err(Error::io("read", path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        Ok(Self {
            file: AppendFile::open(path, keep)?,
            pending: Vec::new(),
        })
    }

    /// Writes one line. Where that fails, it is tried again with the next one.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let time = (time * 1000.0).round() / 1000.0;
        let line = Line {
            time,
            event: event.clone(),
        };
        let text = serde_json::to_string(&line).expect("plain data serialises");
        self.pending.extend_from_slice(text.as_bytes());
        self.pending.push(b'\n');
        self.write_pending()
    }

    /// Makes the lines so far survive a power failure.
    pub fn sync(&mut self) -> Result<()> {
        self.write_pending()?;
        self.file.sync()
    }

    fn write_pending(&mut self) -> Result<()> {
        self.file.append(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

/// The byte after the last line of a log that belongs to steps up to `step`.
pub fn end_of_step(log: impl Read, step: u64) -> std::io::Result<u64> {
    let mut reader = BufReader::new(log);
    let (mut line, mut position) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let whole = line.last() == Some(&b'\n');
        let event = serde_json::from_slice::<Line>(&line).ok().map(|line| line.event);
        match event {
            Some(event) if whole && event.step().is_none_or(|at| at <= step) => position += read as u64,
            Some(_) | None => return Ok(position),
        }
    }
}

/// Reads a log; a torn last line is ignored, any other damage is an error that names the line.
pub fn read_log(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse_log(&text, path)
}

/// [`read_log`] of a log whose text is at hand; `path` is for the errors.
pub fn parse_log(text: &str, path: &Path) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(parsed) => lines.push(parsed),
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => {
                let what = format!("{}, line {}", path.display(), number + 1);
                return Err(Error::invalid(what, "an event of this program", error));
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(step: u64) -> Event {
        Event::Warning {
            step,
            message: "m".into(),
        }
    }

    #[test]
    fn resuming_forgets_later_steps_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = RunLog::open(&path, 0).unwrap();
        for step in 1..=5 {
            log.append(&warning(step)).unwrap();
        }
        drop(log);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
        assert_eq!(read_log(&path).unwrap().len(), 4);

        let mut log = RunLog::open(&path, 3).unwrap();
        log.append(&warning(4)).unwrap();
        let steps: Vec<_> = read_log(&path)
            .unwrap()
            .iter()
            .map(|line| line.event.step().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }

    #[test]
    fn damage_inside_a_log_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(
            &path,
            "{\"time\":0,\"event\":\"warning\",\"step\":1,\"message\":\"\"}\nrubbish\n",
        )
        .unwrap();
        assert!(read_log(&path).unwrap_err().to_string().contains("line 2"));
    }
}
