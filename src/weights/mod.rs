//! Named arrays on disk: checkpoints and weights files, both safetensors with torchvision's names, and the hashes that
//! prove what is in them.

mod arrays;
mod checkpoint;
pub mod durable;
mod hash;
mod load;
mod model;
mod run;

pub use arrays::{Array, write_arrays};
pub use checkpoint::{CheckpointMeta, CheckpointView, MOMENTUM_PREFIX, write_checkpoint};
pub use hash::{StateHasher, weights_sha256};
pub use load::{Loaded, load};
pub use model::Model;
pub use run::{Newest, RunFolder, newest_checkpoint, open_weights};
