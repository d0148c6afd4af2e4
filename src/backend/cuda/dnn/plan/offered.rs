//! Engine configurations by number and knobs: how a plan file names them, and how they are found again.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptor_t,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendKnobType_t as Knob,
};

use super::super::descriptor::Descriptor;
use super::super::{Target, WORKSPACE_CAP};
use super::{Accepted, Candidate, Candidates};
use crate::backend::cuda::plans::EngineChoice;
use crate::error::Result;

impl Candidate {
    /// The engine and every knob that the heuristics set.
    fn choice(&self) -> Result<EngineChoice> {
        let choices = (
            Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
        );
        // As many as there can be: asked for their number alone, cuDNN answers 0.
        let descriptors = (0..Knob::CUDNN_KNOB_TYPE_COUNTS as usize)
            .map(|_| Descriptor::new(Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR))
            .collect::<Result<Vec<_>>>()?;
        // cuDNN fills descriptors that the caller made.
        let mut raw: Vec<cudnnBackendDescriptor_t> = descriptors.iter().map(Descriptor::raw).collect();
        let filled = self.config.get(choices.0, choices.1, &mut raw)?;
        let mut knobs = descriptors[..filled]
            .iter()
            .map(|knob| {
                let mut kind = [0u32];
                let mut value = [0i64];
                let type_of = (Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE);
                knob.get(type_of.0, type_of.1, &mut kind)?;
                let value_of = Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE;
                knob.get(value_of, Type::CUDNN_TYPE_INT64, &mut value)?;
                Ok([i64::from(kind[0]), value[0]])
            })
            .collect::<Result<Vec<_>>>()?;
        knobs.sort_unstable();
        Ok(EngineChoice {
            engine: self.engine,
            knobs,
        })
    }
}

impl Candidates {
    /// How the configuration that was offered at `rank` is named.
    pub(crate) fn choice(&self, rank: usize) -> Result<EngineChoice> {
        self.0[rank].choice()
    }

    /// Every configuration that breaks no promise, can be made into a plan, and keeps to the workspace cap, each once, in
    /// the order in which they are offered: what [`Candidates::choose`] takes is the first.
    pub(crate) fn all(&self, target: &Target) -> Result<Vec<(EngineChoice, Accepted)>> {
        let mut found: Vec<(EngineChoice, Accepted)> = Vec::new();
        for (rank, candidate) in self.0.iter().enumerate() {
            let Ok(accepted) = candidate.plan(target, rank) else {
                continue; // Heuristics offer more than plans can be made of.
            };
            let choice = candidate.choice()?;
            if accepted.workspace <= WORKSPACE_CAP && found.iter().all(|(known, _)| *known != choice) {
                found.push((choice, accepted));
            }
        }
        Ok(found)
    }

    /// The configuration of that name; `None` where it is not offered, or may not be taken.
    pub(crate) fn find(&self, target: &Target, wanted: &EngineChoice) -> Result<Option<Accepted>> {
        for (rank, candidate) in self.0.iter().enumerate() {
            if candidate.engine != wanted.engine || candidate.choice()? != *wanted {
                continue;
            }
            if let Ok(accepted) = candidate.plan(target, rank)
                && accepted.workspace <= WORKSPACE_CAP
            {
                return Ok(Some(accepted));
            }
        }
        Ok(None)
    }
}
