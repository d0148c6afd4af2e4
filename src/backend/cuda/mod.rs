//! The CUDA back end: NVIDIA's libraries for convolutions and matrix products, our kernels for everything else.

mod blas;
pub mod device;
mod dnn;
pub mod image;
pub mod libraries;
pub mod simulator;
