//! Trains and evaluates the VGG networks of Simonyan and Zisserman on ImageNet-size data.
//!
//! ARCHITECTURE.md is the map: the floors, what lives on each, and what is deliberately absent.

pub mod backend;
pub mod bench;
pub mod cli;
pub mod data;
pub mod durable;
pub mod error;
pub mod eval;
pub mod exec;
pub mod network;
pub mod parallel;
pub mod plan;
pub mod rng;
pub mod shape;
pub mod text;
pub mod train;

pub mod weights;

pub use error::{Error, Result};
