//! The update rule and the branches of the reduction tree, on flat vectors.

use super::Real;
use crate::network::{Parameter, batch_norm};
use crate::plan::{StepParams, UpdateRule};

/// [`UpdateRule`] on the elements of one array: learned ones descend, statistics are averaged.
pub(super) fn update<T: Real>(
    parameter: &Parameter,
    rule: &UpdateRule,
    params: &StepParams,
    weights: &mut [T],
    momentum: &mut [T],
    gradient: &[T],
) {
    if !parameter.role.is_learned() {
        let share = T::from(batch_norm::MOMENTUM);
        let micro_batches = T::from(rule.micro_batches as f32);
        for (r, &g) in weights.iter_mut().zip(gradient) {
            *r = share.fma(g / micro_batches - *r, *r);
        }
        return;
    }
    let (learning_rate, decay) = rule.rates(parameter, params.learning_rate);
    let (learning_rate, decay) = (T::from(learning_rate), T::from(decay));
    let batch = T::from(rule.batch as f32);
    for ((w, v), &g) in weights.iter_mut().zip(momentum).zip(gradient) {
        let t = decay.fma(*w, g / batch);
        *v = T::from(rule.momentum).fma(*v, -(learning_rate * t));
        *w = *w + *v;
    }
}
