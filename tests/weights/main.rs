//! Weights of other programs: the same answers as at home, and nothing that a file says is believed.
//!
//! `tests/golden/weights` holds small networks and PyTorch's scores for them; `tools/check-weights --golden` makes it.

mod another;
mod archive;
mod golden;
mod hostile;
mod messages;
mod proto;
mod trunk;
mod written;
