//! Weights of other programs: the same answers as at home, and nothing that a file says is believed.
//!
//! `tests/golden/weights` holds small networks and PyTorch's scores for them; `tools/check-weights --golden` makes it.

mod archive;
mod golden;
mod hostile;
mod trunk;
mod written;
