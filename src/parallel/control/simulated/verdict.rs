//! The rules that every schedule must keep.

use std::time::Duration;

use super::app::End;
use super::schedule::{Fault, Schedule};
use super::world::{Process, World};
use crate::error::{LostPeer, Mismatch};
use crate::parallel::control::message::Failure;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Done,
    Stopped,
    Failed,
}

type Rule = Result<(), String>;

fn rule(kept: bool, broken: impl FnOnce() -> String) -> Rule {
    if kept { Ok(()) } else { Err(broken()) }
}

/// The ending, or the first rule that is broken.
pub(super) fn of(schedule: &Schedule, world: &World<'_>) -> Result<Ending, String> {
    for process in &world.processes {
        rule(process.app.broken.is_none(), || {
            process.app.broken.clone().unwrap_or_default()
        })?;
    }
    nobody_hangs(world)?;
    one_membership(schedule, world)?;
    one_stop(world)?;
    nobody_leaves_alone(world)?;
    the_lost_are_named(world)?;
    refusals_are_right(schedule, world)?;
    in_time(schedule, world)?;
    let ends = || ends(world).map(|(_, end)| end);
    if ends().any(|end| matches!(end, End::Failed(_) | End::Own(_))) || ends().next().is_none() {
        rule(!schedule.is_harmless(), || "a job without a fault failed".into())?;
        return Ok(Ending::Failed);
    }
    Ok(if ends().any(|end| *end == End::Left(75)) {
        Ending::Stopped
    } else {
        Ending::Done
    })
}

fn ends<'w>(world: &'w World<'_>) -> impl Iterator<Item = (usize, &'w End)> {
    let processes = world.processes.iter().enumerate();
    processes.filter_map(|(rank, process)| process.app.end.as_ref().map(|(_, end)| (rank, end)))
}

fn nobody_hangs(world: &World<'_>) -> Rule {
    let hangs = |process: &Process| process.alive && !process.frozen && process.app.end.is_none();
    let rank = world.processes.iter().position(hangs);
    rule(rank.is_none(), || format!("rank {rank:?} hangs"))
}

/// All agree on who is there and on the blob, or all fail.
fn one_membership(schedule: &Schedule, world: &World<'_>) -> Rule {
    let mut joined = world
        .processes
        .iter()
        .filter_map(|process| process.app.membership.as_ref());
    if let Some(first) = joined.next() {
        rule(
            first.peers.len() == schedule.size && first.blob.0 == b"unique id",
            || format!("joined {first:?}"),
        )?;
        rule(joined.all(|other| other == first), || "two memberships".into())?;
    }
    let all = world
        .processes
        .iter()
        .all(|process| process.app.membership.is_some());
    let good = ends(world).any(|(_, end)| matches!(end, End::Left(0 | 75)));
    rule(all || !good, || "a good end of a job that has never met".into())
}

/// All stop at the same step, and nobody has begun it.
fn one_stop(world: &World<'_>) -> Rule {
    let mut halts = world
        .processes
        .iter()
        .filter_map(|process| process.app.halt.as_ref());
    let Some(first) = halts.next() else {
        return Ok(());
    };
    rule(halts.all(|halt| halt == first), || "two stops".into())?;
    let begun = world
        .processes
        .iter()
        .filter_map(|process| process.app.begun)
        .max();
    rule(begun < Some(first.step), || {
        format!("step {begun:?} was begun, and {} is not to be", first.step)
    })
}

/// Whoever ends well has seen all others end well, with one exit code.
fn nobody_leaves_alone(world: &World<'_>) -> Rule {
    let good: Vec<u8> = ends(world)
        .filter_map(|(_, end)| match end {
            End::Left(exit) => Some(*exit),
            End::Failed(_) | End::Own(_) => None,
        })
        .collect();
    let Some(first) = good.first() else {
        return Ok(());
    };
    rule(good.iter().all(|exit| exit == first), || {
        format!("exit codes {good:?}")
    })?;
    let goodbyes = world.processes.iter().map(|process| process.app.goodbye);
    rule(goodbyes.clone().all(|goodbye| goodbye == Some(*first)), || {
        format!(
            "one left with {first}, goodbyes are {:?}",
            goodbyes.collect::<Vec<_>>()
        )
    })
}

/// A rank 0 that was stopped for long wakes to find that the others have hung up, and says so.
fn rank_0_slept(world: &World<'_>) -> bool {
    let slept = |fault: &Fault| matches!(fault, Fault::Freeze { rank: 0, .. }) && fault.loses().is_some();
    world.struck.iter().any(|(_, fault)| slept(fault))
}

/// Only who has a fault is called lost. Who is cut off from rank 0 calls rank 0 lost.
fn the_lost_are_named(world: &World<'_>) -> Rule {
    for (observer, end) in ends(world) {
        let End::Failed(Failure::Lost(LostPeer { rank, .. })) = end else {
            continue;
        };
        // A process that takes another's place first is lost in its stead.
        let lost = |fault: &Fault| {
            fault.loses() == Some(*rank) || matches!(fault, Fault::Twice { rank: twice } if twice == rank)
        };
        let cut = |fault: &Fault| {
            *rank == 0 && matches!(fault, Fault::Cut { rank } | Fault::Hole { rank } if *rank == observer)
        };
        let named = rank_0_slept(world) || world.struck.iter().any(|(_, fault)| lost(fault) || cut(fault));
        rule(named, || format!("rank {observer} calls rank {rank} lost"))?;
    }
    Ok(())
}

/// Nobody is refused or called absent without reason, and who does not fit does not get in.
fn refusals_are_right(schedule: &Schedule, world: &World<'_>) -> Rule {
    let unfit = schedule.other_class.or(schedule.same_device).is_some();
    let twice = world
        .struck
        .iter()
        .any(|(_, fault)| matches!(fault, Fault::Twice { .. }));
    let joined = world
        .processes
        .iter()
        .any(|process| process.app.membership.is_some());
    rule(!(unfit && joined), || {
        "a job that does not fit together has met".into()
    })?;
    for (observer, end) in ends(world) {
        match end {
            End::Failed(Failure::Refused(Mismatch { what, .. })) => {
                let known = what.contains("field seed") || what.starts_with("device") || twice;
                rule((unfit || twice) && known, || {
                    format!("rank {observer} is refused: {what}")
                })?;
            }
            End::Failed(Failure::Absent(absent)) => {
                let missing = |rank: &usize| {
                    let faulty = world.struck.iter().any(|(_, fault)| fault.loses() == Some(*rank));
                    let cut = world
                        .struck
                        .iter()
                        .any(|(_, fault)| fault.loses() == Some(observer));
                    schedule.starts[*rank].is_none()
                        || faulty
                        || rank_0_slept(world)
                        || *rank == 0 && (cut || observer != 0)
                };
                let right = !absent.ranks.is_empty() && absent.ranks.iter().all(missing);
                rule(right, || {
                    format!("rank {observer} calls {:?} absent", absent.ranks)
                })?;
            }
            End::Failed(Failure::Lost(_)) | End::Left(_) | End::Own(_) => {}
        }
    }
    Ok(())
}

/// Everybody of a job that has met learns of the first loss soon.
fn in_time(schedule: &Schedule, world: &World<'_>) -> Rule {
    let met = world.processes.iter().map(|process| process.app.joined).max();
    if world.processes.iter().any(|process| process.app.joined.is_none()) {
        return Ok(()); // it ends with the meeting's own time
    }
    let met = met.flatten().unwrap_or_default();
    // A connection that breaks before all have met is made again. Rank 0 is the first to know that they have.
    let welcome = world.processes[0].app.joined.unwrap_or_default();
    let healed = |time: Duration, rank: usize| {
        let again = Duration::from_micros(world.redialled[rank]);
        again > time && again <= welcome
    };
    let counts = |time: Duration, fault: &Fault| match *fault {
        Fault::Cut { rank } | Fault::Hole { rank } => !healed(time, rank),
        _ => fault.loses().is_some(),
    };
    let struck = world
        .struck
        .iter()
        .map(|(time, fault)| (Duration::from_micros(*time), fault));
    let losses = || struck.clone().filter(|(time, fault)| counts(*time, fault));
    let Some(first) = losses().map(|(time, _)| time).min() else {
        return Ok(());
    };
    let frozen = world.struck.iter().map(|(_, fault)| match fault {
        Fault::Freeze { micros, .. } => Duration::from_micros(micros.unwrap_or_default()),
        _ => Duration::ZERO,
    });
    // Rank 0 may be lost while it is about to name another: each loss has its own silence, except those that are heard.
    let quiet = losses().filter(|(_, fault)| !is_heard(fault)).count();
    let silences = schedule.settings().silence * quiet as u32;
    let bound = met.max(first) + frozen.sum::<Duration>() + silences + NETWORK;
    for (rank, process) in world.processes.iter().enumerate() {
        if let Some((time, End::Failed(_))) = &process.app.end {
            rule(*time <= bound, || {
                format!("rank {rank} learns of it at {time:?}, later than {bound:?}")
            })?;
        }
    }
    Ok(())
}

/// Whether the loss closes a connection.
fn is_heard(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Crash { .. } | Fault::Cut { .. } | Fault::OwnError { .. }
    )
}

/// Ways of messages, and ticks, between a loss and what the last one learns of it.
const NETWORK: Duration = Duration::from_millis(1300);
