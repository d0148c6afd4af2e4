//! The engines that the simulated heuristics offer: the bad ones first, so that a program that takes the first it is
//! offered is found out.

use cudarc::cudnn::sys::{
    cudnnBackendHeurMode_t as Heuristic, cudnnBackendKnobType_t as Knob, cudnnBackendNumericalNote_t as Note,
};

use crate::library::to_tf32;

/// One way to execute a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// Sums in an order that varies.
    Nondeterministic,
    /// Rounds its inputs to half precision.
    DownConverting,
    /// Rounds its inputs to TF32, as tensor cores do with f32.
    TensorCore,
    /// Wants more workspace than a careful program grants.
    Greedy,
    /// As it should be.
    Plain,
    /// The same engine with a knob set otherwise.
    Retiled,
}

impl Engine {
    /// What a heuristic offers, in its order. The recommendations hold nothing that computes in true fp32: on recent
    /// devices the real cuDNN has that for fused convolutions among its fallbacks only.
    pub(super) fn offered(mode: Option<u32>) -> Option<&'static [Self]> {
        const MODE_A: u32 = Heuristic::CUDNN_HEUR_MODE_A as u32;
        const FALLBACK: u32 = Heuristic::CUDNN_HEUR_MODE_FALLBACK as u32;
        match mode? {
            MODE_A => Some(&[
                Self::Nondeterministic,
                Self::DownConverting,
                Self::TensorCore,
                Self::Greedy,
            ]),
            FALLBACK => Some(&[Self::Plain, Self::Retiled]),
            _ => None,
        }
    }

    /// The number of the engine, whatever its knobs.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Retiled => Self::Plain as i64,
            Self::Nondeterministic | Self::DownConverting | Self::TensorCore | Self::Greedy | Self::Plain => {
                self as i64
            }
        }
    }

    /// Its one knob, the size of a tile: number and value.
    pub(super) fn knob(self) -> [i64; 2] {
        const TILE_SIZE: i64 = Knob::CUDNN_KNOB_TYPE_TILE_SIZE as i64;
        match self {
            Self::Retiled => [TILE_SIZE, 1],
            Self::Nondeterministic | Self::DownConverting | Self::TensorCore | Self::Greedy | Self::Plain => {
                [TILE_SIZE, 0]
            }
        }
    }

    pub(super) fn notes(self) -> &'static [Note] {
        match self {
            Self::Nondeterministic => &[Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC],
            Self::DownConverting => &[
                Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
                Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            ],
            Self::TensorCore => &[Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE],
            Self::Greedy | Self::Plain | Self::Retiled => &[],
        }
    }

    /// Bytes. Never zero, so that a missing workspace is noticed.
    pub(super) fn workspace(self) -> i64 {
        match self {
            Self::Greedy => 2 << 30,
            Self::Nondeterministic
            | Self::DownConverting
            | Self::TensorCore
            | Self::Plain
            | Self::Retiled => 4096,
        }
    }

    /// What becomes of a factor before it is multiplied; `None` where the engine is not simulated.
    pub(super) fn rounding(self) -> Option<fn(f32) -> f32> {
        match self {
            Self::DownConverting => None,
            Self::TensorCore => Some(to_tf32),
            Self::Nondeterministic | Self::Greedy | Self::Plain | Self::Retiled => Some(|factor| factor),
        }
    }
}
