//! The harness of `tests/backend.rs`: it judges any back end.

pub(crate) mod cases;
pub(crate) mod differences;
pub(crate) mod draw;
pub(crate) mod rig;

pub(crate) use cases::{Case, Images};
pub(crate) use draw::Draw;
