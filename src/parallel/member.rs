//! The replicas of a process, ready to compute.

use std::sync::Arc;
use std::thread;

use super::control::Control;
use super::{Group, Local, Nccl};
use crate::backend::Backend;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::libraries::Libraries;
use crate::error::{Error, Result};
use crate::exec::SharedParameters;
use crate::network::Network;
use crate::plan::Reduction;

/// One replica: its back end, its way to the others, and the parameters that it reads.
pub struct Member<'b, B: Backend, G: Group<B>> {
    /// What computes.
    pub backend: &'b B,
    /// The way to the others.
    pub group: G,
    /// Its own, or shared with the replicas of the device.
    pub parameters: SharedParameters<B>,
}

/// Runs `first` for the first of `members` on this thread, and `other` for each of the others on a thread of its own, until
/// all have ended.
pub fn run<'a, B: Backend, G: Group<B> + Send, T>(
    members: Vec<Member<'a, B, G>>,
    first: impl FnOnce(Member<'a, B, G>) -> Result<T>,
    other: impl Fn(Member<'a, B, G>) + Sync,
) -> Result<T> {
    let mut members = members.into_iter();
    let leader = members
        .next()
        .ok_or_else(|| Error::invalid("replicas", "at least 1", 0))?;
    thread::scope(|scope| {
        for member in members {
            let other = &other;
            thread::Builder::new()
                .name(format!("replica {}", member.group.place().rank))
                .spawn_scoped(scope, move || other(member))
                .map_err(|source| Error::Io {
                    action: "start",
                    path: "a replica's thread".into(),
                    source,
                })?;
        }
        first(leader)
    })
}

/// Replicas that share parameters: threads of this process, each with a back end of its own on the same device.
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

/// Parameters to start from, both flat; `momentum` may be empty where it is 0.
#[derive(Clone, Copy)]
pub struct Initial<'a> {
    /// Weights and running statistics.
    pub weights: &'a [f32],
    /// Momentum.
    pub momentum: &'a [f32],
}

/// The replicas of one device, by rank.
pub fn on_one_device<'a, B: Backend>(
    replicas: Replicas<'a, B>,
    network: &Network,
    initial: Initial<'_>,
) -> Result<Vec<Member<'a, B, Local<'a, B>>>> {
    let Replicas { backends, combiner } = replicas;
    let parameters = SharedParameters::new(combiner, network, initial.weights, initial.momentum)?;
    let groups = Local::group(combiner, backends.len(), &parameters);
    let members = groups.into_iter().zip(backends).map(|(group, backend)| Member {
        backend,
        group,
        parameters: parameters.clone(),
    });
    Ok(members.collect())
}

/// A replica on each device, a power of two of them in all processes that `control` reaches, by rank.
pub fn on_devices<'a>(
    devices: &'a [Cuda],
    libraries: &Libraries,
    reduction: Reduction,
    control: Option<&Arc<Control>>,
    network: &Network,
    initial: Initial<'_>,
) -> Result<Vec<Member<'a, Cuda, Nccl<'a>>>> {
    let parameters = devices
        .iter()
        .map(|cuda| SharedParameters::new(cuda, network, initial.weights, initial.momentum))
        .collect::<Result<Vec<_>>>()?;
    let groups = Nccl::group(devices, libraries, reduction, control)?;
    let members = devices.iter().zip(groups).zip(parameters);
    let member = |((backend, group), parameters)| Member {
        backend,
        group,
        parameters,
    };
    Ok(members.map(member).collect())
}
