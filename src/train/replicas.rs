//! A run on one or several replicas.

use std::mem;
use std::sync::Arc;
use std::thread;

use super::event::Observer;
use super::trainer::{Ended, Job, Trainer, prepare};
use crate::backend::Backend;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::libraries::Libraries;
use crate::error::{Error, Result};
use crate::exec::SharedParameters;
use crate::parallel::control::Control;
use crate::parallel::{Group, Local, Nccl, all_well};

/// Replicas that share weights: threads of this process, each with a back end of its own on the same device.
#[derive(Clone, Copy)]
pub struct Replicas<'a, B> {
    /// One back end for each replica, a power of two of them.
    pub backends: &'a [B],
    /// Computes while all replicas wait, with all threads that there are.
    pub combiner: &'a B,
}

impl<'a, B> Replicas<'a, B> {
    /// One replica.
    pub fn one(backend: &'a B) -> Self {
        Self {
            backends: std::slice::from_ref(backend),
            combiner: backend,
        }
    }
}

/// Trains until the last step, a signal or an error; always leaves a checkpoint of the last finished step, unless that
/// cannot be written. An `Err` means that the run could not even start.
pub fn train<B: Backend>(
    replicas: Replicas<'_, B>,
    mut job: Job,
    observer: &mut dyn Observer,
) -> Result<Ended> {
    job.check()?;
    let (weights, momentum) = (
        mem::take(&mut job.start.weights),
        mem::take(&mut job.start.momentum),
    );
    let parameters = SharedParameters::new(replicas.combiner, &job.network, &weights, &momentum)?;
    drop((weights, momentum));
    let groups = Local::group(replicas.combiner, replicas.backends.len(), &parameters);
    let members = groups.into_iter().zip(replicas.backends);
    let members = members.map(|(group, backend)| (backend, group, parameters.clone()));
    train_members(members.collect(), &job, Some(observer))
}

/// The same with a replica on each device, a power of two of them. `control` is the way to the other processes of the job,
/// where there are any: each calls this, and only the first has a log and an end event.
pub fn train_on_devices(
    devices: &[Cuda],
    libraries: &Libraries,
    control: Option<&Arc<Control>>,
    mut job: Job,
    observer: &mut dyn Observer,
) -> Result<Ended> {
    job.check()?;
    let (weights, momentum) = (
        mem::take(&mut job.start.weights),
        mem::take(&mut job.start.momentum),
    );
    let parameters = devices
        .iter()
        .map(|cuda| SharedParameters::new(cuda, &job.network, &weights, &momentum))
        .collect::<Result<Vec<_>>>()?;
    drop((weights, momentum));
    let groups = Nccl::group(devices, libraries, job.recipe.reduce, control)?;
    let members = devices.iter().zip(groups).zip(parameters);
    let members = members.map(|((cuda, group), parameters)| (cuda, group, parameters));
    let observer = control
        .is_none_or(|control| control.rank() == 0)
        .then_some(observer);
    train_members(members.collect(), &job, observer)
}

/// A replica's back end, its way to the others, and the weights that it reads.
type Member<'a, B, G> = (&'a B, G, SharedParameters<B>);

fn train_members<B: Backend, G: Group<B> + Send>(
    members: Vec<Member<'_, B, G>>,
    job: &Job,
    observer: Option<&mut dyn Observer>,
) -> Result<Ended> {
    let mut members = members.into_iter();
    let first = members
        .next()
        .ok_or_else(|| Error::invalid("replicas", "at least 1", 0))?;
    thread::scope(|scope| {
        for member in members {
            thread::Builder::new()
                .name(format!("replica {}", member.1.place().rank))
                .spawn_scoped(scope, move || replica(member, job, None))
                .map_err(|source| Error::Io {
                    action: "start",
                    path: "a replica's thread".into(),
                    source,
                })?;
        }
        // Its lifetime is shortened to that of this call.
        let observer = observer.map(|observer| -> &mut dyn Observer { observer });
        replica(first, job, observer)
    })
}

/// The life of one replica. What goes wrong with another one is in the first one's end.
fn replica<'a, B: Backend, G: Group<B>>(
    (backend, mut group, parameters): Member<'a, B, G>,
    job: &'a Job,
    observer: Option<&'a mut dyn Observer>,
) -> Result<Ended> {
    let prepared = prepare(backend, group.place(), parameters, job, observer);
    let prepared = all_well(&mut group, prepared)?;
    let mut trainer = Trainer::new(backend, group, job, prepared);
    let outcome = trainer.run();
    trainer.end(outcome)
}
