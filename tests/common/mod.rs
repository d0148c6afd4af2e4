//! The harness of `tests/backend.rs`: it judges any back end.

pub(crate) mod accuracy;
pub(crate) mod agreement;
pub(crate) mod alike;
pub(crate) mod cases;
pub(crate) mod device;
pub(crate) mod differences;
pub(crate) mod draw;
pub(crate) mod exact;
pub(crate) mod rig;
pub(crate) mod sentinels;
pub(crate) mod ten_steps;

pub(crate) use cases::{Case, Images};
pub(crate) use draw::Draw;
