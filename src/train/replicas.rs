//! A run on one or several replicas.

use std::sync::Arc;

use serde_json::{Value, json};

use super::event::Observer;
use super::job::{Ended, Job};
use super::trainer::{Trainer, prepare};
use crate::backend::Backend;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::libraries::Libraries;
use crate::error::{Error, Result};
use crate::parallel::control::Control;
use crate::parallel::{Group, Initial, Member, Replicas, agree, all_well, on_devices, on_one_device, run};

/// Trains until the last step, a signal or an error; leaves a checkpoint of the last finished step, unless that cannot be
/// written, or one of several replicas has failed alone. An `Err` means that the run could not even start.
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
    // Its lifetime is shortened to that of this call.
    let observer = observer.map(|observer| -> &mut dyn Observer { observer });
    // What goes wrong with another one is in the first one's end.
    let other = |member| drop(replica(member, job, None));
    run(members, |member| replica(member, job, observer), other)
}

/// The life of one replica.
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
    begin_alike(&mut group, job)?;
    let mut trainer = Trainer::new(backend, group, job, prepared);
    let outcome = trainer.run();
    trainer.end(outcome)
}

/// Refuses replicas that would not take the same steps from the same state, as where processes have read different
/// checkpoints.
fn begin_alike<B: Backend>(group: &mut impl Group<B>, job: &Job) -> Result<()> {
    let (recipe, start) = (&job.recipe, &job.start);
    let own = json!({
        "step": start.progress.step,
        "state_sha256": start.state_sha256,
        "steps": recipe.total_steps(job.training.len() as u64),
        "checkpoint-every": recipe.checkpoint_every,
        "validate-every": recipe.validate_every,
        "audit-every": recipe.audit_every,
        "folds": recipe.folds,
    });
    let all: Vec<Value> = agree(group, Ok(own))?;
    for (rank, other) in all.iter().enumerate() {
        for (field, expected) in all[0].as_object().into_iter().flatten() {
            if other[field] != *expected {
                return Err(Error::invalid(
                    format_args!("where replica {rank} begins, {field}"),
                    format_args!("{expected}, as the first one"),
                    &other[field],
                ));
            }
        }
    }
    Ok(())
}
