//! Named arrays on disk: checkpoints and weights files, both safetensors with torchvision's names, and the hashes that
//! prove what is in them.

mod about;
mod arrays;
mod checkpoint;
mod export;
mod hash;
mod import;
mod load;
mod model;
mod protobuf;
mod run;
mod shown;

pub use about::About;
pub use arrays::{Array, write_arrays};
pub use checkpoint::{CheckpointMeta, CheckpointView, MOMENTUM_PREFIX, write_checkpoint};
pub use export::{write_onnx, write_safetensors};
pub use hash::{StateHasher, weights_sha256};
pub use import::Format;
pub use load::{Loaded, load, load_from};
pub use model::Model;
pub use run::{Newest, RunFolder, newest_checkpoint, open_weights};

use std::fmt::Display;
use std::path::Path;

use crate::error::Error;

/// The error of a file that is not whole, or says what cannot be.
fn damaged(path: &Path, expected: &str, found: impl Display) -> Error {
    Error::invalid_hint(
        path.display(),
        expected,
        found,
        "it is damaged, or was not written by who it says; take another copy or checkpoint",
    )
}
