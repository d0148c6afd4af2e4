//! Weights and momentum on a device: read while gradients are made, written once a step.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::backend::{Backend, State};
use crate::error::{Error, Result};
use crate::network::{Network, Parameter};
use crate::plan::{Plan, StepParams, UpdateRule};
use crate::weights::CheckpointView;

/// Weights and momentum, both flat vectors of all parameters.
pub struct Parameters<B: Backend> {
    /// Master weights and running statistics.
    pub weights: B::Buffer,
    /// Momentum; stays 0 for running statistics.
    pub momentum: B::Buffer,
}

/// Parameters that several replicas of one device may read at a time.
pub struct SharedParameters<B: Backend>(Arc<RwLock<Parameters<B>>>);

impl<B: Backend> Clone for SharedParameters<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> SharedParameters<B> {
    /// Those of `network`, all 0. Errors with `OutOfMemory`.
    pub fn zeroed(backend: &B, network: &Network) -> Result<Self> {
        Ok(Self(Arc::new(RwLock::new(Parameters {
            weights: backend.allocate_weights(network.flat_len())?,
            momentum: backend.allocate_parameters(network.flat_len())?,
        }))))
    }

    /// Those of `network`, as said; both flat, `momentum` may be empty where it is 0.
    pub fn new(backend: &B, network: &Network, weights: &[f32], momentum: &[f32]) -> Result<Self> {
        let parameters = Self::zeroed(backend, network)?;
        parameters.set(backend, weights, momentum)?;
        Ok(parameters)
    }

    /// Writes the beginning of both.
    pub fn set(&self, backend: &B, weights: &[f32], momentum: &[f32]) -> Result<()> {
        let mut parameters = self.write();
        backend.write_parameters(&mut parameters.weights, 0, weights)?;
        backend.write_parameters(&mut parameters.momentum, 0, momentum)
    }

    /// To read. Whoever panicked while it wrote has ended the run for all replicas; nobody trains on.
    pub fn read(&self) -> RwLockReadGuard<'_, Parameters<B>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To write; waits until nobody reads.
    pub fn write(&self) -> RwLockWriteGuard<'_, Parameters<B>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look at them for checkpoints and hashes.
    pub fn view<'a>(&'a self, backend: &'a B) -> ParametersView<'a, B> {
        ParametersView {
            backend,
            parameters: self.read(),
        }
    }
}

impl<B: Backend> Parameters<B> {
    /// Applies the update rule with the complete gradient `sum`. A gradient that is not finite is found before anything
    /// is changed.
    pub fn update(
        &mut self,
        backend: &B,
        plan: &Plan,
        rule: &UpdateRule,
        params: &StepParams,
        sum: &B::Buffer,
    ) -> Result<()> {
        if !backend.is_finite(sum, 0..plan.flat_len)? {
            return Err(non_finite(backend, plan, sum, params.step + 1)?);
        }
        for parameter in 0..plan.parameters.len() {
            let state = State {
                weights: &mut self.weights,
                momentum: &mut self.momentum,
                gradient: sum,
            };
            backend.update(plan, parameter, rule, params, state)?;
        }
        Ok(())
    }
}

/// The first array whose gradient is not finite, as an error.
fn non_finite<B: Backend>(backend: &B, plan: &Plan, sum: &B::Buffer, step: u64) -> Result<Error> {
    for parameter in &plan.parameters {
        if !backend.is_finite(sum, parameter.range())? {
            let what = format!("the gradient of {}", parameter.name);
            return Ok(Error::NonFinite { step, what });
        }
    }
    let what = "the gradient, between the arrays".into();
    Ok(Error::NonFinite { step, what })
}

/// Parameters that are being read; nobody writes them meanwhile.
pub struct ParametersView<'a, B: Backend> {
    backend: &'a B,
    parameters: RwLockReadGuard<'a, Parameters<B>>,
}

impl<B: Backend> CheckpointView for ParametersView<'_, B> {
    fn weights(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()> {
        self.backend
            .read_parameters(&self.parameters.weights, parameter.offset, values)
    }

    fn momentum(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()> {
        self.backend
            .read_parameters(&self.parameters.momentum, parameter.offset, values)
    }
}
