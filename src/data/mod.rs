//! Where images come from: tar shards, their index, the memory-mapped reader, the order, decoding, preprocessing,
//! augmentation and the loader. Knows no network.

pub mod augment;
pub mod bad;
pub mod decode;
pub mod file;
pub mod image_files;
pub mod index;
pub mod loader;
pub mod manifest;
pub mod map;
pub mod order;
pub mod pack;
pub mod preprocess;
pub mod render;
pub mod resample;
pub mod resize;
mod shard_set;
pub mod shards;
pub mod tar;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;
