//! Several processes with a simulated GPU each: the weights of one process, to the bit; whoever is lost is named.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use verydeep::backend::cuda::CudaLowering;
use verydeep::data::preprocess::Preprocess;
use verydeep::plan::{Bucket, Mode, Plan};
use verydeep::rng::{Purpose, Stream};
use verydeep::train::Recipe;

use crate::images::{CLASSES, shards};
use crate::tool::{command, errors, events, hashes, run_json, said, small, test_seed};

/// A job of processes on this machine, which takes itself for `nodes` machines.
pub(super) struct Job {
    coordinator: String,
    size: usize,
    nodes: usize,
    /// Of what the simulated devices draw; each process has another.
    seed: u64,
    /// Where the simulated NCCL says what it has sent.
    wire: Option<PathBuf>,
}

impl Job {
    fn new(size: usize) -> Self {
        // The port may be taken by another one in between; then rank 0 says so, and the test fails in words.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self {
            coordinator: format!("127.0.0.1:{port}"),
            size,
            nodes: 1,
            seed: 0,
            wire: None,
        }
    }

    /// As many processes on each of the nodes.
    pub(super) fn on(size: usize, nodes: usize, seed: u64) -> Self {
        Self {
            nodes,
            seed,
            ..Self::new(size)
        }
    }

    fn command(&self, rank: usize, flags: &[&str]) -> Command {
        let here = self.size / self.nodes;
        let mut command = command(flags);
        command
            .env("VERYDEEP_SIMULATE_CUDA", "8")
            .env("CUDASIM_SEED", (self.seed * 1000 + rank as u64).to_string())
            .env("CUDASIM_NODE", (rank / here).to_string())
            .env("VERYDEEP_RANK", rank.to_string())
            .env("VERYDEEP_SIZE", self.size.to_string())
            .env("VERYDEEP_LOCAL_RANK", (rank % here).to_string())
            .env("VERYDEEP_LOCAL_SIZE", here.to_string())
            .env("VERYDEEP_COORDINATOR", &self.coordinator);
        if let Some(folder) = &self.wire {
            command.env("CUDASIM_WIRE", folder);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn start(&self, rank: usize, flags: &[&str]) -> Child {
        self.command(rank, flags).spawn().unwrap()
    }

    fn start_all(&self, flags: &[&str]) -> Vec<Child> {
        (0..self.size).map(|rank| self.start(rank, flags)).collect()
    }

    pub(super) fn run(&self, flags: &[&str], code: i32) {
        for (rank, child) in self.start_all(flags).into_iter().enumerate() {
            let output = wait(child);
            let message = errors(&output);
            assert_eq!(output.status.code(), Some(code), "rank {rank}: {message}");
            assert!(!message.contains("cudasim:"), "rank {rank}: {message}");
        }
    }
}

/// What the longest job of a night takes on a busy machine, and more.
const HANGS: Duration = Duration::from_secs(600);

fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + HANGS;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it hangs: {}", errors(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn flags<'a>(run: &'a Path, iterations: &'a str, device: &'a str) -> Vec<&'a str> {
    let mut flags = small(shards(), run);
    flags.extend([
        "A",
        "--batch-norm",
        "--iterations",
        iterations,
        "--device",
        device,
    ]);
    flags.extend(["--peer-timeout", "3", "--join-timeout", "20"]);
    flags
}

/// The run that one process with one device makes.
fn alone(folder: &Path, iterations: &str, precision: &str) -> (String, String) {
    let run = folder.join("alone").join(precision);
    let output = command(flags(&run, iterations, "cuda:0"))
        .args(["--precision", precision])
        .env("VERYDEEP_SIMULATE_CUDA", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    hashes(&run)
}

/// The plan of a run.
fn plan(run: &Path) -> Plan {
    let recipe = Recipe::read(&run.join("recipe.toml")).unwrap();
    let lowering = CudaLowering {
        precision: recipe.precision,
    };
    let network = recipe.spec(CLASSES).build().unwrap();
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    Plan::new(
        &network,
        &preprocess,
        recipe.micro_batch,
        Mode::Training,
        &lowering,
    )
    .unwrap()
}

/// What all processes have sent by send and receive; and that to other nodes, by node.
fn sent(folder: &Path) -> (u64, [u64; 2]) {
    let (mut all, mut off_node) = (0, [0; 2]);
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        for device in report["devices"].as_array().unwrap() {
            all += device["calls"]["ncclSend"]["sent"].as_u64().unwrap();
            // The all-reduce of the flag: at most 8 bytes a step.
            let flags = device["calls"]["ncclAllReduce"]["sent"].as_u64().unwrap();
            let off = device["sent_off_node"].as_u64().unwrap();
            off_node[device["node"].as_u64().unwrap() as usize] += off.saturating_sub(flags);
        }
    }
    (all, off_node)
}

/// In one level and in two; what goes over the wire is what DESIGN section 3 says.
#[test]
fn four_processes_give_the_bits_of_one_and_send_what_they_must() {
    let folder = tempfile::tempdir().unwrap();
    for (nodes, precision) in [(1, "fp32"), (2, "fp32"), (2, "bf16")] {
        let at = |name: &str| folder.path().join(format!("{name}{nodes}{precision}"));
        let (run, wire) = (at("run"), at("wire"));
        std::fs::create_dir(&wire).unwrap();
        let job = Job {
            nodes,
            wire: Some(wire.clone()),
            ..Job::new(4)
        };
        let mut flags = flags(&run, "2", "cuda");
        flags.extend(["--precision", precision]);
        job.run(&flags, 0);
        assert_eq!(
            hashes(&run),
            alone(&at("one"), "2", precision),
            "{nodes} nodes, {precision}"
        );
        let ends = events(&run, "end");
        assert_eq!(ends.len(), 1, "one process writes the log");
        let validated = events(&run, "validation").pop().unwrap();
        assert_eq!(
            validated["weights_sha256"], ends[0]["weights_sha256"],
            "{nodes} nodes, {precision}"
        );

        // Two steps, each with slices to their owners and weights back; for one checkpoint, the momentum; and for it and
        // the hash of every validation, the weights that came back in bf16.
        let plan = plan(&run);
        let elements = |bucket: &Bucket| bucket.elements.len() as u64;
        let gradient = 4 * plan.buckets.iter().map(elements).sum::<u64>();
        let factors = plan.buckets.iter().filter(|bucket| plan.are_factors(bucket));
        let halved = match precision {
            "bf16" => 2 * factors.map(elements).sum::<u64>(),
            _ => 0,
        };
        let made_whole = 1 + events(&run, "validation").len() as u64;
        let once = 2 * (2 * gradient - halved) + gradient + made_whole * 2 * halved;
        let (all, off_node) = sent(&wire);
        let replicas = 4;
        assert_eq!(all, (replicas - 1) * once, "{nodes} nodes, {precision}");
        if nodes == 2 {
            // (N - 1) / N of all of that per node; slices are whole packs of 16 bytes.
            let rounding = 16 * plan.buckets.len() as u64;
            for node in off_node {
                assert!(node.abs_diff(once / 2) <= rounding, "{node} of {once}");
            }
        }
    }
}

/// Waits for an event in the run's log.
fn wait_for(event: &str, run: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let log = || std::fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
    while !log().contains(&format!("\"event\":\"{event}\"")) {
        assert!(Instant::now() < deadline, "no {event}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the child has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// All processes stop after the same step; another number of them goes on.
#[test]
fn a_signal_to_one_process_stops_the_job_which_another_number_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let expected = alone(folder.path(), "4", "fp32");
    let run = folder.path().join("run");
    let children = Job::new(2).start_all(&flags(&run, "4", "cuda"));
    wait_for("step", &run);
    signal(&children[1], libc::SIGTERM);
    for child in children {
        let output = wait(child);
        assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    }
    let again = run.to_str().unwrap();
    Job::new(4).run(&["train", "--resume", again, "--device", "cuda", "--quiet"], 0);
    assert_eq!(hashes(&run), expected);
}

/// Whoever dies or freezes, at whatever moment: the others end with exit 8 in time and name it, and the run goes on from
/// its last checkpoint.
#[test]
fn a_lost_process_is_named_by_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let seed = test_seed();
    for loss in 0..said("VERYDEEP_TEST_LOSSES", 4) {
        let run = folder.path().join(format!("run{loss}"));
        let mut flags = flags(&run, "500", "cuda");
        flags.extend(["--checkpoint-every", "1"]);
        let mut children = Job::new(4).start_all(&flags);
        wait_for("checkpoint", &run);
        let mut draw = Stream::new(seed, loss, Purpose::Synthetic, 0);
        std::thread::sleep(Duration::from_millis(draw.below(500)));
        let rank = draw.below(4) as usize;
        let how = if loss % 2 == 0 {
            libc::SIGKILL
        } else {
            libc::SIGSTOP
        };
        signal(&children[rank], how);
        let since = Instant::now();
        let victim = children.remove(rank);
        for child in children {
            let output = wait(child);
            let message = errors(&output);
            assert_eq!(output.status.code(), Some(8), "{loss}: {message}");
            assert!(
                message.contains(&format!("rank {rank} (host ")),
                "{loss}: {message}"
            );
        }
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{loss}: {:?}",
            since.elapsed()
        );
        signal(&victim, libc::SIGKILL);
        wait(victim);
        let whole = run_json(["inspect", run.to_str().unwrap()]);
        assert!(whole["step"].as_u64().unwrap() > 0, "{whole}");
    }
}

/// A process that does not take part, although it lives, ends the job for all.
#[test]
fn a_job_that_hangs_ends() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = flags(&run, "2", "cuda");
    flags.extend(["--hang-timeout", "3"]);
    let job = Job::new(2);
    let first = job.start(0, &flags);
    // Of its fortieth transfer it says that it has begun.
    let second = job
        .command(1, &flags)
        .env("CUDASIM_FAIL", "hang:40")
        .spawn()
        .unwrap();
    for child in [first, second] {
        let output = wait(child);
        assert_eq!(output.status.code(), Some(8), "{}", errors(&output));
        assert!(
            errors(&output).contains("nobody has got on"),
            "{}",
            errors(&output)
        );
    }
}

/// Processes that would not train the same, and processes that do not come.
#[test]
fn who_does_not_fit_or_does_not_come_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let job = Job::new(2);
    let like_first = flags(&run, "1", "cuda");
    let mut other = like_first.clone();
    other.extend(["--seed", "2"]);
    let children = [job.start(0, &like_first), job.start(1, &other)];
    for child in children {
        let output = wait(child);
        assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
        assert!(errors(&output).contains("seed"), "{}", errors(&output));
    }
    assert!(!run.exists(), "nothing was started");

    let mut flags = like_first.clone();
    let at = flags.iter().position(|flag| *flag == "--join-timeout").unwrap();
    flags[at + 1] = "2";
    let output = wait(Job::new(4).start(0, &flags));
    assert_eq!(output.status.code(), Some(8), "{}", errors(&output));
    assert!(errors(&output).contains("1, 2, 3"), "{}", errors(&output));

    // As on two machines of one name.
    let children = [0, 1].map(|rank| {
        let mut command = job.command(rank, &like_first);
        command
            .env("VERYDEEP_LOCAL_RANK", "0")
            .env("VERYDEEP_LOCAL_SIZE", "1");
        command.spawn().unwrap()
    });
    for child in children {
        let output = wait(child);
        assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
        assert!(errors(&output).contains("one rank, "), "{}", errors(&output));
    }

    let output = wait(job.start(0, &self::flags(&run, "1", "cpu")));
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    assert!(!run.exists());
}
