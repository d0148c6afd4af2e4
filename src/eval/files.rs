//! Single images, from files or from standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::data::loader::Source;
use crate::error::{BadSample, Error, Result};

/// How standard input is said.
const STANDARD_INPUT: &str = "-";

/// More than any image has; whatever writes for ever is stopped.
const MOST_BYTES: u64 = 1 << 30;

/// Image files as a source of samples without labels.
#[derive(Debug, Clone)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// What came from standard input, if that is one of them.
    input: Vec<u8>,
}

impl Files {
    /// The images at `paths`; `-` stands for what `input` gives, which can be said once.
    pub fn new(paths: Vec<PathBuf>, input: impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        match paths.iter().filter(|path| is_input(path)).count() {
            0 => {}
            1 => {
                let read = input.take(MOST_BYTES + 1).read_to_end(&mut bytes);
                read.map_err(Error::io("read", Path::new("standard input")))?;
                if bytes.len() as u64 > MOST_BYTES {
                    let expected = format_args!("an image of at most {MOST_BYTES} bytes");
                    return Err(Error::invalid("standard input", expected, "more"));
                }
            }
            times => {
                let found = format_args!("{times} times");
                return Err(Error::invalid("- (standard input)", "once, for one image", found));
            }
        }
        Ok(Self { paths, input: bytes })
    }

    /// Where they are.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

fn is_input(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
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
        let path = &self.paths[sample];
        if is_input(path) {
            return Ok(&self.input);
        }
        *scratch = std::fs::read(path).map_err(Error::io("read", path))?;
        Ok(scratch)
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        let name = self.paths[sample].display().to_string();
        BadSample {
            shard: name.clone(),
            offset: 0,
            key: name,
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
        assert_eq!(files.bad_sample(1, "reason".into()).key, "-");
        let twice = Files::new([paths.clone(), paths].concat(), &b"bytes"[..]);
        assert!(twice.unwrap_err().to_string().contains("2 times"));
        let without = Files::new(vec!["x".into()], std::io::repeat(0)).unwrap();
        assert!(without.input.is_empty(), "nothing was read");
    }
}
