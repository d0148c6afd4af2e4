//! Where images come from: tar shards, their index, the memory-mapped reader, the order, decoding, preprocessing,
//! augmentation and the loader. Knows no network.

pub mod decode;

#[cfg(test)]
pub(crate) mod testing;
