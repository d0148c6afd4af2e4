//! Replicas on devices of their own, which exchange gradients by NCCL.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use super::control::{Control, Membership};
use super::talk::Talk;
use super::{Group, Place, agree};
use crate::backend::cuda::libraries::Libraries;
use crate::backend::cuda::nccl::{Communicator, ExchangeTimes, UniqueId};
use crate::backend::cuda::{Buffer, Cuda};
use crate::backend::{Backend as _, State};
use crate::error::{Error, Result};
use crate::exec::{Parameters, Training};
use crate::plan::{Bucket, Levels, Plan, Reduction, StepParams, UpdateRule};

/// One of several replicas with a device each.
pub struct Nccl<'b> {
    cuda: &'b Cuda,
    talk: Talk,
    /// `None` once it is closed.
    communicator: Option<Communicator>,
    reduction: Reduction,
    /// What has been sent away of this step.
    sent: Vec<Range<usize>>,
    step: u64,
    times: Option<ExchangeTimes>,
}

impl<'b> Nccl<'b> {
    /// The replicas of this process, on `devices`, in the order of their ranks. All of all processes join at once.
    pub fn group(
        devices: &'b [Cuda],
        libraries: &Libraries,
        reduction: Reduction,
        control: Option<&Arc<Control>>,
    ) -> Result<Vec<Self>> {
        let id = match control {
            Some(control) => UniqueId::from_slice(&control.membership().blob.0)?,
            None => UniqueId::new(libraries)?,
        };
        let on_node = control.map_or(devices.len(), |control| {
            replicas_on_a_node(control.membership(), devices.len())
        });
        thread::scope(|scope| {
            let joining: Vec<_> = devices
                .iter()
                .zip(Talk::among(devices.len(), control))
                .map(|(cuda, mut talk)| {
                    scope.spawn(move || {
                        let Place { rank, replicas, .. } = talk.place();
                        let levels = Levels::new(rank, replicas / on_node, on_node);
                        let ranks = [rank, replicas];
                        let joined =
                            Communicator::join(cuda, libraries, id, ranks, levels, &|| talk.check("join"));
                        let communicator = joined.inspect_err(|error| talk.last_words(error))?;
                        Ok(Self {
                            cuda,
                            talk,
                            communicator: Some(communicator),
                            reduction,
                            sent: Vec::new(),
                            step: 0,
                            times: None,
                        })
                    })
                })
                .collect();
            let joined = joining.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            // An error of a replica's own says more than that another one heard of it.
            let (joined, failed): (Vec<_>, Vec<_>) = joined.partition(Result::is_ok);
            let mut errors: Vec<Error> = failed.into_iter().filter_map(Result::err).collect();
            errors.sort_by_key(|error| matches!(error, Error::Replica { .. }));
            match errors.into_iter().next() {
                Some(error) => Err(error),
                None => joined.into_iter().collect(),
            }
        })
    }

    fn parts(&mut self) -> Result<(&Cuda, &Talk, &mut Communicator)> {
        match &mut self.communicator {
            Some(communicator) => Ok((self.cuda, &self.talk, communicator)),
            None => Err(Error::invalid("the replicas", "to go on", "an end")),
        }
    }

    /// Exact: every replica has the total of what it owns; updates that, and gathers the weights.
    fn update_slices(
        &mut self,
        plan: &Plan,
        (rule, params): (&UpdateRule, &StepParams),
        parameters: &mut Parameters<Cuda>,
        sum: &Buffer,
    ) -> Result<()> {
        let sent = std::mem::take(&mut self.sent);
        let (cuda, talk, communicator) = self.parts()?;
        let alarm = || talk.check("exchange gradients");
        if !communicator.is_finite(sum, &sent, &alarm)? {
            let owned = communicator.owned(&sent);
            return Err(self.non_finite(plan, sum, &owned, params.step + 1)?);
        }
        let owned = communicator.owned(&sent);
        let state = State {
            weights: &mut parameters.weights,
            momentum: &mut parameters.momentum,
            gradient: sum,
        };
        communicator.update(cuda, plan, &owned, (rule, params), state)?;
        talk.progress(params.step, "the gathering of weights");
        for bucket in &plan.buckets {
            let elements = bucket.elements.clone();
            if plan.are_factors(bucket) {
                communicator.gather_factors(&mut parameters.weights, elements, &alarm)?;
            } else {
                communicator.gather(&mut parameters.weights, elements.clone(), &alarm)?;
                communicator.renew_copy(&mut parameters.weights, elements)?;
            }
        }
        communicator.wait("gathering the weights", &alarm)
    }

    /// After a step that was given up: what was sent must have been sent by all, or nothing more can be exchanged.
    fn finish_what_was_sent(&mut self, buckets: usize) -> Result<()> {
        let sent = agree::<Cuda, _>(self, Ok(self.sent.len()))?;
        let alike = sent.iter().all(|other| *other == sent[0]);
        if !alike || ![0, buckets].contains(&sent[0]) {
            return Err(Error::invalid(
                "gradients that were sent when the step was given up",
                format_args!("{buckets} buckets of every replica, or none"),
                format_args!("{sent:?}"),
            ));
        }
        self.sent.clear();
        let (_, talk, communicator) = self.parts()?;
        communicator.wait("adding the gradients of all replicas", &|| {
            talk.check("exchange gradients")
        })
    }

    /// The first array of the network whose gradient is not finite, whichever replica owns the place.
    fn non_finite(&mut self, plan: &Plan, sum: &Buffer, owned: &[Range<usize>], step: u64) -> Result<Error> {
        let found = plan.parameters.iter().position(|parameter| {
            let array = parameter.range();
            owned.iter().any(|range| {
                let part = array.start.max(range.start)..array.end.min(range.end);
                !part.is_empty() && !self.cuda.is_finite(sum, part).unwrap_or(true)
            })
        });
        let first = agree::<Cuda, _>(self, Ok(found))?.into_iter().flatten().min();
        let what = match first {
            Some(parameter) => format!("the gradient of {}", plan.parameters[parameter].name),
            None => "the gradient, between the arrays".into(),
        };
        Ok(Error::NonFinite { step, what })
    }
}

/// How many replicas each node has, where all have as many, a power of two of them; else all replicas count as one node.
fn replicas_on_a_node(job: &Membership, per_process: usize) -> usize {
    let processes = job.peers.len();
    // Ranks go node by node, and count from 0 on each.
    let here = job
        .peers
        .iter()
        .enumerate()
        .take_while(|(rank, peer)| peer.local_rank == *rank)
        .count();
    let numbers = job.peers.iter().map(|peer| peer.local_rank);
    let alike = numbers.eq((0..processes).map(|rank| rank % here.max(1)));
    match alike && here.is_power_of_two() {
        true => here * per_process,
        false => processes * per_process,
    }
}

impl Group<Cuda> for Nccl<'_> {
    fn place(&self) -> Place {
        self.talk.place()
    }

    fn begin(&mut self, step: u64) {
        self.step = step;
        self.times = None;
        if let Some(communicator) = &mut self.communicator {
            communicator.begin();
        }
        self.talk.progress(step, "none of this step");
    }

    fn exchange(&mut self, message: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.talk.exchange(message)
    }

    fn last_words(&mut self, error: &Error) {
        self.talk.last_words(error);
    }

    /// What one replica has sent away, the others wait for.
    fn may_drop_steps(&self) -> bool {
        false
    }

    fn holds_whole_state(&self) -> bool {
        false
    }

    fn has_own_state(&self) -> bool {
        true
    }

    fn bucket_final(&mut self, bucket: &Bucket, sum: &mut Buffer) -> Result<()> {
        self.talk.progress(self.step, "the reduction of gradients");
        let (elements, reduction) = (bucket.elements.clone(), self.reduction);
        let (cuda, talk, communicator) = self.parts()?;
        let alarm = || talk.check("exchange gradients");
        communicator.follow(cuda)?;
        match reduction {
            Reduction::Exact => communicator.reduce(sum, elements.clone(), &alarm)?,
            Reduction::Nccl => communicator.all_reduce(sum, elements.clone(), &alarm)?,
        }
        self.sent.push(elements);
        Ok(())
    }

    fn update(
        &mut self,
        training: &mut Training<'_, Cuda>,
        rule: &UpdateRule,
        params: &StepParams,
    ) -> Result<()> {
        let reduction = self.reduction;
        let (cuda, talk, communicator) = self.parts()?;
        // The weights are not overwritten before everything that reads them is done.
        communicator.follow(cuda)?;
        communicator.wait("adding the gradients of all replicas", &|| {
            talk.check("exchange gradients")
        })?;
        let parameters = training.parameters().clone();
        let (plan, sum) = training.plan_and_sum();
        match reduction {
            Reduction::Exact => self.update_slices(plan, (rule, params), &mut parameters.write(), sum)?,
            Reduction::Nccl => {
                self.sent.clear();
                parameters.write().update(self.cuda, plan, rule, params, sum)?;
            }
        }
        let (_, _, communicator) = self.parts()?;
        self.times = Some(communicator.times()?);
        Ok(())
    }

    fn exchange_times(&self) -> Option<ExchangeTimes> {
        self.times
    }

    fn complete_state(&mut self, training: &mut Training<'_, Cuda>) -> Result<()> {
        if self.reduction == Reduction::Nccl {
            return Ok(());
        }
        self.finish_what_was_sent(training.plan().buckets.len())?;
        self.complete_weights(training)?;
        let (_, talk, communicator) = self.parts()?;
        let alarm = || talk.check("exchange gradients");
        let mut parameters = training.parameters().write();
        for bucket in &training.plan().buckets {
            communicator.gather(&mut parameters.momentum, bucket.elements.clone(), &alarm)?;
        }
        communicator.wait("gathering the momentum", &alarm)
    }

    fn complete_weights(&mut self, training: &mut Training<'_, Cuda>) -> Result<()> {
        let mut parameters = training.parameters().write();
        if self.reduction == Reduction::Nccl || !Communicator::gathers_copy(&parameters.weights) {
            return Ok(());
        }
        let (_, talk, communicator) = self.parts()?;
        let alarm = || talk.check("exchange weights");
        let plan = training.plan();
        for bucket in plan.buckets.iter().filter(|bucket| plan.are_factors(bucket)) {
            communicator.gather(&mut parameters.weights, bucket.elements.clone(), &alarm)?;
        }
        communicator.wait("gathering the weights", &alarm)
    }

    fn leave(&mut self) -> Result<()> {
        let talk = &self.talk;
        if let Some(communicator) = self.communicator.take() {
            communicator.close(&|| talk.check("exchange gradients"))?;
        }
        // Nobody is gone while another one still closes.
        talk.exchange(Vec::new()).map(|_| ())
    }
}
