//! The CUDA back end: NVIDIA's libraries for convolutions and matrix products, our kernels for everything else.

pub mod device;
pub mod libraries;
pub mod simulator;
