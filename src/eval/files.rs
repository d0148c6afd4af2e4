//! Single images, from files.

use std::path::PathBuf;

use crate::data::loader::Source;
use crate::error::{BadSample, Error, Result};

/// Image files as a source of samples without labels.
#[derive(Debug, Clone)]
pub struct Files(pub Vec<PathBuf>);

impl Source for Files {
    fn len(&self) -> usize {
        self.0.len()
    }

    /// Nobody knows; 0 is a class of every network.
    fn label(&self, _: usize) -> u32 {
        0
    }

    fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let path = &self.0[sample];
        *scratch = std::fs::read(path).map_err(Error::io("read", path))?;
        Ok(scratch)
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        let name = self.0[sample].display().to_string();
        BadSample {
            shard: name.clone(),
            offset: 0,
            key: name,
            reason,
        }
    }
}
