//! Single images, from files, pipes or standard input.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::data::loader::Source;
use crate::error::{BadSample, Error, Result};

/// How standard input is said.
const STANDARD_INPUT: &str = "-";

/// More than any image has: what never ends is not read for ever.
const MOST_BYTES: u64 = 1 << 30;

/// Image files as a source of samples without labels.
#[derive(Debug, Clone)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// What can be read only once, though images are read once a scale and more: standard input, pipes, devices. The bytes,
    /// or why there are none.
    held: BTreeMap<usize, Result<Vec<u8>, String>>,
}

impl Files {
    /// The images at `paths`; `-` stands for what `input` gives, which can be said once.
    pub fn new(paths: Vec<PathBuf>, mut input: impl Read) -> Result<Self> {
        let times = paths.iter().filter(|path| is_input(path)).count();
        if times > 1 {
            let found = format_args!("{times} times");
            return Err(Error::invalid("- (standard input)", "once, for one image", found));
        }
        let mut held = BTreeMap::new();
        for (sample, path) in paths.iter().enumerate() {
            if is_input(path) {
                held.insert(sample, bounded(&mut input, MOST_BYTES));
            } else if fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir()) {
                held.insert(sample, read_file(path));
            }
        }
        Ok(Self { paths, held })
    }

    /// Where they are.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

fn is_input(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    bounded(file, MOST_BYTES)
}

/// All bytes, unless there are more than `most`.
fn bounded(from: impl Read, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = from.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("expected an image of at most {most} bytes, found more"));
    }
    Ok(bytes)
}

impl Source for Files {
    fn len(&self) -> usize {
        self.paths.len()
    }

    /// Nobody knows; 0 is a class of every network.
    fn label(&self, _: usize) -> u32 {
        0
    }

    fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let bad = |reason: String| Error::Sample(Box::new(self.bad_sample(sample, reason)));
        if let Some(held) = self.held.get(&sample) {
            return held.as_deref().map_err(|reason| bad(reason.clone()));
        }
        *scratch = read_file(&self.paths[sample]).map_err(bad)?;
        Ok(scratch)
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        BadSample {
            shard: crate::text::of_path(&self.paths[sample]),
            offset: 0,
            key: String::new(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_one_image_among_files() {
        let paths = ["no such file", "-"].map(PathBuf::from).to_vec();
        let files = Files::new(paths.clone(), &b"bytes"[..]).unwrap();
        let mut scratch = Vec::new();
        assert_eq!(files.read(1, &mut scratch).unwrap(), b"bytes");
        assert!(files.read(0, &mut scratch).is_err());
        assert_eq!(files.bad_sample(1, "reason".into()).to_string(), "-: reason");
        let twice = Files::new([paths.clone(), paths].concat(), &b"bytes"[..]);
        assert!(twice.unwrap_err().to_string().contains("2 times"));
        let without = Files::new(vec!["x".into()], std::io::repeat(0)).unwrap();
        assert!(without.held.is_empty(), "nothing was read");
    }

    #[test]
    fn what_never_ends_is_not_read_for_ever() {
        assert_eq!(bounded(&b"bytes"[..], 5).unwrap(), b"bytes");
        let refused = bounded(std::io::repeat(0), 5).unwrap_err();
        assert_eq!(refused, "expected an image of at most 5 bytes, found more");
    }

    #[test]
    fn devices_are_read_once() {
        let files = Files::new(vec!["/dev/null".into(), "-".into()], &b"bytes"[..]).unwrap();
        assert_eq!(files.held.keys().collect::<Vec<_>>(), [&0, &1]);
        assert_eq!(files.read(0, &mut Vec::new()).unwrap(), b"");
    }
}
