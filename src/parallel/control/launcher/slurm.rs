//! Slurm's variables.
//!
//! A batch script itself has `SLURM_PROCID` and `SLURM_NTASKS` but is no step of several tasks; only steps have
//! `SLURM_STEP_NUM_TASKS`. Task 0 runs on the first node of the step's list.

use super::variables::{Variables, wrong};
use super::{LOOPBACK, Launch, Launcher, Meeting};
use crate::error::Result;

const BY: Launcher = Launcher::Slurm;

pub(super) fn launch(variables: Variables<'_>) -> Result<Launch> {
    let job = job(variables)?;
    let host = host_of_rank_0(variables)?;
    let coordinator = match variables.get("SLURM_STEP_RESV_PORTS").and_then(reserved_ports) {
        Some(ports) => Meeting { host, ports },
        None => Meeting::derived(host, &job),
    };
    Ok(Launch {
        rank: variables.number("SLURM_PROCID", BY)?,
        size: variables.number("SLURM_STEP_NUM_TASKS", BY)?,
        local_rank: variables.number("SLURM_LOCALID", BY)?,
        local_size: local_size(variables)?,
        coordinator,
        launcher: BY,
        job,
    })
}

/// Job, step, and how often the job was put back into the queue.
fn job(variables: Variables<'_>) -> Result<String> {
    let id = variables.text("SLURM_JOB_ID", BY)?;
    let step = variables.get("SLURM_STEP_ID").unwrap_or("0");
    let restart = variables.get("SLURM_RESTART_COUNT").unwrap_or("0");
    Ok(format!("srun {id}.{step} restart {restart}"))
}

fn host_of_rank_0(variables: Variables<'_>) -> Result<String> {
    const LIST: &str = "SLURM_STEP_NODELIST";
    if variables.get("SLURM_STEP_NUM_NODES") == Some("1") {
        return Ok(LOOPBACK.into());
    }
    let list = variables.text(LIST, BY)?;
    first_host(&list).ok_or_else(|| wrong(LIST, "a list like node[01-04]", &list, BY))
}

/// The first host of `node[01-04,07],other[1-2]-ib`.
pub(super) fn first_host(list: &str) -> Option<String> {
    let (mut host, mut rest) = (String::new(), list);
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        host += &rest[..end];
        let Some(numbers) = rest[end..].strip_prefix('[') else {
            break;
        };
        let (numbers, after) = numbers.split_once(']')?;
        host += numbers.split([',', '-']).next()?;
        rest = after;
    }
    (!host.is_empty()).then_some(host)
}

/// The ports of `12001-12003` or `12001,12005-12006`.
pub(super) fn reserved_ports(text: &str) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        ports.extend(first..=last);
    }
    (!ports.is_empty()).then_some(ports)
}

fn local_size(variables: Variables<'_>) -> Result<usize> {
    const TASKS: &str = "SLURM_STEP_TASKS_PER_NODE";
    let text = variables.text(TASKS, BY)?;
    let node = variables.number("SLURM_NODEID", BY)?;
    tasks_of_node(&text, node).ok_or_else(|| wrong(TASKS, "tasks of each node, like 4(x2),3", &text, BY))
}

/// Entry `node` of `4(x2),3`, which says 4, 4, 3.
pub(super) fn tasks_of_node(text: &str, node: usize) -> Option<usize> {
    let mut seen = 0_usize;
    for part in text.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1_usize),
        };
        seen = seen.checked_add(times)?;
        if node < seen {
            return tasks.parse().ok();
        }
    }
    None
}
