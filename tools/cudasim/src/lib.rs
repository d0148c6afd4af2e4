//! A strict simulated CUDA device.
