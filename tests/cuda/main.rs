//! The CUDA back end below the level of plans: its kernels, and what it does when the driver fails.

mod simulated;
