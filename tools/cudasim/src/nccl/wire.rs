//! What goes over the wire: bytes between devices, and between nodes.
//!
//! Collectives are counted as a ring of the ranks, in their order, sends them: the ways of the real library differ, their
//! least is this. A send to itself goes nowhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::collective::{Call, Function};
use crate::sim::{Sim, variable};

/// The folder that gets, when a process ends, what its devices have exchanged.
const VARIABLE: &str = "CUDASIM_WIRE";

/// What one device has exchanged with others, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wire {
    /// The node that the device is in.
    pub node: usize,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Of these, sent to other nodes.
    pub sent_off_node: u64,
    /// Of these, received from other nodes.
    pub received_off_node: u64,
    /// For each function how often it was called, and the bytes that it sent.
    pub calls: BTreeMap<&'static str, (u64, u64)>,
}

/// The node of one of this process's devices.
pub(crate) fn node_of(device: usize) -> usize {
    let devices = variable("CUDASIM_DEVICES_PER_NODE", u64::MAX).max(1);
    variable("CUDASIM_NODE", 0) as usize + (device as u64 / devices) as usize
}

/// A rank at the other end of a way, and how much goes there.
type Way = (usize, u64);

/// Where a call's bytes go.
fn sent(call: &Call, ring: usize) -> Way {
    match call.function {
        Function::Send(to) => (to, bytes(call)),
        Function::Receive(_) => (call.rank, 0),
        _ => ((call.rank + 1) % call.ranks, passed_on(call, call.rank, ring)),
    }
}

/// Where a call's bytes come from.
fn received(call: &Call, ring: usize) -> Way {
    let before = (call.rank + call.ranks - 1) % call.ranks;
    match call.function {
        Function::Receive(from) => (from, bytes(call)),
        Function::Send(_) => (call.rank, 0),
        _ => (before, passed_on(call, before, ring)),
    }
}

fn bytes(call: &Call) -> u64 {
    (call.count * call.element.bytes()) as u64
}

/// Bytes that a rank passes on to the next one in a ring.
fn passed_on(call: &Call, rank: usize, ring: usize) -> u64 {
    let (ranks, all) = (call.ranks, bytes(call));
    match call.function {
        // All parts but the one that the next rank gave; all but the one that is this rank's.
        Function::AllGather | Function::ReduceScatter(_) => (ranks as u64 - 1) * all,
        // Piece p begins at rank `ring + p` and is complete one rank before; from there it goes round once more.
        Function::AllReduce(_) => {
            let not_added = piece(call, rank + 1 + ranks - ring);
            let not_told = piece(call, rank + 2 + ranks - ring);
            2 * all - not_added - not_told
        }
        // Along the ring to the root, or from it.
        Function::Reduce { root, .. } if rank == root => 0,
        Function::Broadcast { root } if (rank + 1) % ranks == root => 0,
        Function::Reduce { .. } | Function::Broadcast { .. } => all,
        Function::Send(_) | Function::Receive(_) => 0,
    }
}

/// Bytes of a piece of an array that is cut into one for each rank.
fn piece(call: &Call, number: usize) -> u64 {
    let (number, ranks) = (number % call.ranks, call.ranks);
    let begins = |number: usize| (number * call.count).div_ceil(ranks);
    ((begins(number + 1) - begins(number)) * call.element.bytes()) as u64
}

impl Sim {
    /// Counts what a call of one of this process's ranks exchanges.
    pub(super) fn count_wire(&mut self, clique: u64, call: &Call, ring: usize) {
        let Some(clique) = self.nccl.cliques.get(&clique) else {
            return;
        };
        let comm = clique.members[call.rank].and_then(|comm| self.nccl.comms.get(&comm));
        let Some(device) = comm.map(|comm| comm.device) else {
            return; // aborted meanwhile
        };
        let node = clique.node(&self.nccl.comms, call.rank);
        let is_off_node = |peer: usize| clique.node(&self.nccl.comms, peer) != node;
        let counted = |(peer, bytes): Way| if peer == call.rank { 0 } else { bytes };
        let (to, from) = (sent(call, ring), received(call, ring));
        let off_node = [is_off_node(to.0), is_off_node(from.0)].map(u64::from);
        let (sent, received) = (counted(to), counted(from));
        let wire = self.nccl.wire.entry(device).or_default();
        wire.node = node;
        wire.sent += sent;
        wire.received += received;
        wire.sent_off_node += sent * off_node[0];
        wire.received_off_node += received * off_node[1];
        let (calls, bytes) = wire.calls.entry(call.name()).or_default();
        *calls += 1;
        *bytes += sent;
    }

    /// What each device has exchanged so far.
    pub(crate) fn wire(&self) -> BTreeMap<usize, Wire> {
        self.nccl.wire.clone()
    }
}

/// Writes `wire-PID.json` where one is wanted.
pub(super) fn write_report(sim: &Sim) {
    let Some(folder) = std::env::var_os(VARIABLE) else {
        return;
    };
    let path = PathBuf::from(folder).join(format!("wire-{}.json", std::process::id()));
    if let Err(why) = std::fs::write(&path, to_json(&sim.nccl.wire)) {
        // A closed standard error leaves nobody to tell.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("cudasim: {VARIABLE}: {}: {why}\n", path.display()),
        );
    }
}

fn to_json(devices: &BTreeMap<usize, Wire>) -> String {
    let one = |(device, wire): (&usize, &Wire)| {
        let calls: Vec<String> = wire
            .calls
            .iter()
            .map(|(name, (calls, sent))| format!("\"{name}\": {{\"calls\": {calls}, \"sent\": {sent}}}"))
            .collect();
        format!(
            "{{\"device\": {device}, \"node\": {}, \"sent\": {}, \"received\": {}, \"sent_off_node\": {}, \
             \"received_off_node\": {}, \"calls\": {{{}}}}}",
            wire.node,
            wire.sent,
            wire.received,
            wire.sent_off_node,
            wire.received_off_node,
            calls.join(", ")
        )
    };
    let devices: Vec<String> = devices.iter().map(one).collect();
    format!(
        "{{\"process\": {}, \"devices\": [{}]}}\n",
        std::process::id(),
        devices.join(", ")
    )
}
