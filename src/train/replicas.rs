//! A run on one or several replicas.

use std::sync::Arc;
use std::thread;

use super::event::Observer;
use super::trainer::{Ended, Job, Trainer, prepare};
use crate::backend::Backend;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::libraries::Libraries;
use crate::error::{Error, Result};
use crate::parallel::control::Control;
use crate::parallel::{Group, Initial, Member, Replicas, all_well, on_devices, on_one_device};

/// Trains until the last step, a signal or an error; always leaves a checkpoint of the last finished step, unless that
/// cannot be written. An `Err` means that the run could not even start.
pub fn train<B: Backend>(
    replicas: Replicas<'_, B>,
    mut job: Job,
    observer: &mut dyn Observer,
) -> Result<Ended> {
    job.check()?;
    let (weights, momentum) = job.start.take();
    let initial = Initial {
        weights: &weights,
        momentum: &momentum,
    };
    let members = on_one_device(replicas, &job.network, initial)?;
    drop((weights, momentum));
    train_members(members, &job, Some(observer))
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
    let (weights, momentum) = job.start.take();
    let initial = Initial {
        weights: &weights,
        momentum: &momentum,
    };
    let reduction = job.recipe.reduce;
    let members = on_devices(devices, libraries, reduction, control, &job.network, initial)?;
    drop((weights, momentum));
    let observer = control
        .is_none_or(|control| control.rank() == 0)
        .then_some(observer);
    train_members(members, &job, observer)
}

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
                .name(format!("replica {}", member.group.place().rank))
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
    member: Member<'a, B, G>,
    job: &'a Job,
    observer: Option<&'a mut dyn Observer>,
) -> Result<Ended> {
    let Member {
        backend,
        mut group,
        parameters,
    } = member;
    let prepared = prepare(backend, group.place(), parameters, job, observer);
    let prepared = all_well(&mut group, prepared)?;
    let mut trainer = Trainer::new(backend, group, job, prepared);
    let outcome = trainer.run();
    trainer.end(outcome)
}
