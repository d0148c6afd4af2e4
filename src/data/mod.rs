//! Where images come from: tar shards, their index, the memory-mapped reader, the order, decoding, preprocessing,
//! augmentation and the loader. Knows no network.

pub mod augment;
pub mod decode;
pub mod order;
pub mod preprocess;
pub mod render;
pub mod resize;

#[cfg(test)]
pub(crate) mod testing;
