//! The engines that the simulated heuristics offer: the bad ones first, so that a program that takes the first it is
//! offered is found out.

use cudarc::cudnn::sys::cudnnBackendNumericalNote_t as Note;

/// One way to execute a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// Sums in an order that varies.
    Nondeterministic,
    /// Rounds its inputs to TF32.
    TensorCore,
    /// Wants more workspace than a careful program grants.
    Greedy,
    /// As it should be.
    Plain,
}

impl Engine {
    /// In the order of the heuristics.
    pub(super) const ALL: [Self; 4] = [
        Self::Nondeterministic,
        Self::TensorCore,
        Self::Greedy,
        Self::Plain,
    ];

    pub(super) fn notes(self) -> &'static [Note] {
        match self {
            Self::Nondeterministic => &[Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC],
            Self::TensorCore => &[
                Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
                Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            ],
            Self::Greedy | Self::Plain => &[],
        }
    }

    /// Bytes. Never zero, so that a missing workspace is noticed.
    pub(super) fn workspace(self) -> i64 {
        match self {
            Self::Greedy => 2 << 30,
            Self::Nondeterministic | Self::TensorCore | Self::Plain => 4096,
        }
    }
}
