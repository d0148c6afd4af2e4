//! A batch split in every way: over the devices of one process, over processes of a node and of two, with and without
//! graph, in both walks. One result, to the bit.

use std::path::Path;

use super::devices;
use super::processes::Job;
use crate::images::shards;
use crate::tool::{hashes, said, small, with};

/// A way to split a batch.
#[derive(Debug)]
struct Split {
    /// What each process has.
    devices: &'static str,
    /// Processes and nodes.
    processes: (usize, usize),
    flags: &'static [&'static str],
}

const fn in_one_process(devices: &'static str, flags: &'static [&'static str]) -> Split {
    Split {
        devices,
        processes: (1, 1),
        flags,
    }
}

/// Each with one device.
const fn in_processes(processes: usize, nodes: usize, flags: &'static [&'static str]) -> Split {
    Split {
        devices: "cuda",
        processes: (processes, nodes),
        flags,
    }
}

const GRAPH: &[&str] = &["--cuda-graph"];
const FC_FIRST: &[&str] = &["--walk=fc-first"];

/// The first is what the others are held to.
const SPLITS: [Split; 14] = [
    in_one_process("cuda:0", &[]),
    in_one_process("cuda:0-1", GRAPH),
    in_one_process("cuda:0,3,1,2", FC_FIRST),
    in_one_process("cuda:0-7", &[]),
    in_processes(8, 2, GRAPH),
    in_one_process("cuda:0", GRAPH),
    in_one_process("cuda:0-1", &[]),
    in_one_process("cuda:0-3", GRAPH),
    in_one_process("cuda:0-7", GRAPH),
    in_processes(2, 1, &[]),
    in_processes(2, 2, GRAPH),
    in_processes(4, 1, GRAPH),
    in_processes(4, 2, FC_FIRST),
    in_processes(8, 1, &[]),
];

const NETS: [&[&str]; 3] = [&["A", "--batch-norm"], &["A", "--precision", "bf16"], &["D"]];

impl Split {
    /// Trains; gives the hashes of what came out.
    fn train(&self, net: &[&str], steps: &str, seed: u64, run: &Path) -> (String, String) {
        // Eight micro-batches, as there are eight replicas at most.
        let flags = with(small(shards(), run), "--batch", "16");
        let mut flags = with(flags, "--micro-batch", "2");
        flags.extend(net);
        let said = seed.to_string();
        flags.extend(["--iterations", steps, "--seed", &said, "--device", self.devices]);
        flags.extend(self.flags);
        match self.processes {
            (1, _) => drop(devices::run(&flags, &said)),
            (processes, nodes) => Job::on(processes, nodes, seed).run(&flags, 0),
        }
        hashes(run)
    }
}

/// VERYDEEP_TEST_STEPS, VERYDEEP_TEST_SEEDS and VERYDEEP_TEST_SPLITS (how many) make a nightly run of it, which
/// VERYDEEP_TEST_SEED (the first one) cuts into parts.
#[test]
fn any_split_gives_the_same_bits() {
    let steps = said("VERYDEEP_TEST_STEPS", 4).to_string();
    let splits = &SPLITS[..said("VERYDEEP_TEST_SPLITS", 5)];
    let first: u64 = said("VERYDEEP_TEST_SEED", 0);
    for seed in first..first + said("VERYDEEP_TEST_SEEDS", 3) {
        let net = NETS[seed as usize % NETS.len()];
        let folder = tempfile::tempdir().unwrap();
        let mut expected = None;
        for (i, split) in splits.iter().enumerate() {
            let found = split.train(net, &steps, seed, &folder.path().join(i.to_string()));
            let expected = expected.get_or_insert_with(|| found.clone());
            assert_eq!(&found, expected, "{net:?}, seed {seed}, {split:?}");
        }
    }
}
