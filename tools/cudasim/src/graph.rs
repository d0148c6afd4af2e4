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
        Graph { nodes: self.nodes }
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

    /// Puts a replay of a graph on a stream. Each node gets a lane of its own, so that nodes without an order between them
    /// race where they would on a device; what comes later in the stream comes after all of them.
    pub(crate) fn launch_graph(&mut self, stream: Handle, graph: &Arc<Graph>) {
        let base = self.clock_of_next(stream);
        let mut nodes: Vec<Who> = Vec::new();
        for node in &graph.nodes {
            let mut clock = base.clone();
            node.after
                .iter()
                .for_each(|before| clock.join(&nodes[*before].clock));
            let lane = self.lane();
            let time = clock.tick(lane);
            nodes.push(Who {
                name: Arc::clone(&node.name),
                stamp: Stamp {
                    lane,
                    time,
                    ..Stamp::default()
                },
                clock: Arc::new(clock),
            });
        }
        let mut end = base;
        nodes.iter().for_each(|node| end.join(&node.clock));
        let replay = Replay {
            graph: Arc::clone(graph),
            nodes,
        };
        self.enqueue(stream, "cuGraphLaunch", Action::Graph(Arc::new(replay)));
        self.learn(stream, &end);
    }

    /// Executes the nodes in one of the orders that the graph allows.
    pub(crate) fn replay(&mut self, device: usize, replay: &Replay) {
        let nodes = &replay.graph.nodes;
        let mut done = vec![false; nodes.len()];
        let mut open: Vec<usize> = (0..nodes.len()).collect();
        while !open.is_empty() {
            let ready: Vec<usize> = (0..open.len())
                .filter(|at| nodes[open[*at]].after.iter().all(|node| done[*node]))
                .collect();
            let at = ready[self.draw(ready.len())];
            let node = open.swap_remove(at);
            self.perform(device, &nodes[node].action, &replay.nodes[node]);
            done[node] = true;
        }
    }
}

/// One replay of a graph: who its nodes are this time.
pub(crate) struct Replay {
    graph: Arc<Graph>,
    nodes: Vec<Who>,
}
