//! A run on one or several replicas.

use std::mem;
use std::thread;

use super::event::Observer;
use super::trainer::{Ended, Job, Trainer, prepare};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::exec::SharedParameters;
use crate::parallel::{Group, Local, all_well};

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
    let (weights, momentum) = (
        mem::take(&mut job.start.weights),
        mem::take(&mut job.start.momentum),
    );
    let parameters = SharedParameters::new(replicas.combiner, &job.network, &weights, &momentum)?;
    drop((weights, momentum));
    job.check()?;
    let mut groups = Local::group(replicas.combiner, replicas.backends.len(), &parameters).into_iter();
    let mut backends = replicas.backends.iter();
    let (Some(first), Some(backend)) = (groups.next(), backends.next()) else {
        return Err(Error::invalid("replicas", "at least 1", 0));
    };
    thread::scope(|scope| {
        for (group, backend) in groups.zip(backends) {
            let (job, parameters) = (&job, parameters.clone());
            let name = format!("replica {}", Group::<B>::place(&group).rank);
            thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || replica(backend, group, parameters, job, None))
                .map_err(|source| Error::Io {
                    action: "start",
                    path: "a replica's thread".into(),
                    source,
                })?;
        }
        let ended = replica(backend, first, parameters.clone(), &job, Some(observer))?;
        ended.ok_or_else(|| Error::invalid("the first replica", "an observer", "none"))
    })
}

/// The life of one replica. What goes wrong with another one is in the first one's end.
fn replica<'a, B: Backend, G: Group<B>>(
    backend: &'a B,
    mut group: G,
    parameters: SharedParameters<B>,
    job: &'a Job,
    observer: Option<&'a mut dyn Observer>,
) -> Result<Option<Ended>> {
    let prepared = prepare(backend, group.place(), parameters, job, observer);
    let prepared = all_well(&mut group, prepared)?;
    let mut trainer = Trainer::new(backend, group, job, prepared);
    let outcome = trainer.run();
    trainer.end(outcome)
}
