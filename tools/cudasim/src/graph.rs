//! Stream capture: operations become nodes instead of being executed, and a graph of them is replayed later.

use std::sync::Arc;

use crate::access::Who;
use crate::memory::Stamp;
use crate::sim::{Action, Handle, Sim};

/// One operation of a graph, and the nodes that it comes after.
pub(crate) struct Node {
    name: Arc<str>,
    action: Action,
    after: Vec<usize>,
}

/// What a capture has made.
pub(crate) struct Graph {
    nodes: Vec<Node>,
    /// Of each node, the nodes that come before it, whatever lies between.
    before: Vec<Nodes>,
}

/// Nodes of a graph: one bit for each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes(Arc<[u64]>);

impl Nodes {
    pub(crate) fn contains(&self, node: u32) -> bool {
        let word = self.0.get(node as usize / 64);
        word.is_some_and(|word| word >> (node % 64) & 1 == 1)
    }
}

/// A capture under way.
pub(crate) struct Capture {
    pub(crate) origin: Handle,
    nodes: Vec<Node>,
    /// For each stream that takes part: the nodes that its next operation comes after.
    frontiers: Vec<(Handle, Vec<usize>)>,
}

impl Capture {
    pub(crate) fn new(origin: Handle) -> Self {
        Self {
            origin,
            nodes: Vec::new(),
            frontiers: vec![(origin, Vec::new())],
        }
    }

    pub(crate) fn frontier(&mut self, stream: Handle) -> &mut Vec<usize> {
        let at = self.frontiers.iter().position(|(other, _)| *other == stream);
        let at = at.unwrap_or_else(|| {
            self.frontiers.push((stream, Vec::new()));
            self.frontiers.len() - 1
        });
        &mut self.frontiers[at].1
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = Handle> {
        self.frontiers.iter().map(|(stream, _)| *stream)
    }

    /// Whether everything that was captured comes before the end of the first stream.
    pub(crate) fn is_joined(&self) -> bool {
        let origin = &self.frontiers[0].1;
        let mut reached = vec![false; self.nodes.len()];
        let mut next: Vec<usize> = origin.clone();
        while let Some(node) = next.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                next.extend(&self.nodes[node].after);
            }
        }
        reached.iter().all(|reached| *reached)
    }

    pub(crate) fn finish(self) -> Graph {
        let mut before: Vec<Nodes> = Vec::new();
        for node in &self.nodes {
            let mut all = vec![0; self.nodes.len().div_ceil(64)];
            for &last in &node.after {
                all.iter_mut()
                    .zip(&*before[last].0)
                    .for_each(|(all, earlier)| *all |= earlier);
                all[last / 64] |= 1 << (last % 64);
            }
            before.push(Nodes(all.into()));
        }
        Graph {
            nodes: self.nodes,
            before,
        }
    }
}

impl Sim {
    /// Adds an operation of a captured stream to the graph.
    pub(crate) fn capture(&mut self, stream: Handle, name: &str, action: Action) {
        let handle = self.streams[&stream].capture.expect("the stream is captured");
        let capture = self
            .captures
            .get_mut(&handle)
            .expect("it lasts as long as its streams take part");
        let after = std::mem::take(capture.frontier(stream));
        let node = capture.nodes.len();
        capture.nodes.push(Node {
            name: name.into(),
            action,
            after,
        });
        capture.frontier(stream).push(node);
    }

    /// Executes the nodes in one of the orders that the graph allows. All of them happen at the moment of the launch; nodes
    /// without an order between them race where they would on a device.
    pub(crate) fn replay(&mut self, device: usize, graph: &Graph, launch: &Who) {
        let nodes = &graph.nodes;
        let mut done = vec![false; nodes.len()];
        let mut open: Vec<usize> = (0..nodes.len()).collect();
        while !open.is_empty() {
            let ready: Vec<usize> = (0..open.len())
                .filter(|at| nodes[open[*at]].after.iter().all(|node| done[*node]))
                .collect();
            let at = ready[self.draw(ready.len())];
            let node = open.swap_remove(at);
            let who = Who {
                name: Arc::clone(&nodes[node].name),
                stamp: Stamp {
                    node: node as u32,
                    ..launch.stamp
                },
                clock: Arc::clone(&launch.clock),
                before: graph.before[node].clone(),
            };
            self.perform(device, &nodes[node].action, &who);
            done[node] = true;
        }
    }
}
