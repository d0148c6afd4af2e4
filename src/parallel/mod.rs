//! Replicas, and the processes that they live in.

pub mod control;
