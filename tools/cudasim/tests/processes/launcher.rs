//! Runs a program's ranks in processes.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::ptr::null_mut;
use std::{env, thread};

use super::machine::*;
use super::programs;

const PROGRAM: &str = "CUDASIM_TEST_PROGRAM";
const RANKS: &str = "CUDASIM_TEST_RANKS";
const ALL: &str = "CUDASIM_TEST_ALL";
const ID: &str = "CUDASIM_TEST_ID";

/// What a process begins a line of its output with when a rule was broken, and when a rank has something to say.
const REPORT: &str = "REPORT ";
const RESULT: &str = "RESULT ";

/// What a process is to do.
pub struct Orders {
    program: String,
    /// Its ranks.
    ranks: Vec<usize>,
    /// Of so many.
    all: usize,
    id: UniqueId,
}

/// One rank: a thread with a device, that of its number, and a stream.
pub struct Rank<'a> {
    pub machine: &'a Machine,
    pub rank: usize,
    pub ranks: usize,
    pub id: UniqueId,
    pub stream: Handle,
}

impl Rank<'_> {
    /// Joins the communicator of all ranks.
    pub fn join(&self) -> Handle {
        let (joined, comm) = self.try_join(self.ranks, self.rank);
        assert_eq!(joined, SUCCESS);
        comm
    }

    pub fn try_join(&self, ranks: usize, rank: usize) -> (c_int, Handle) {
        let mut comm = null_mut();
        // SAFETY: writes one handle.
        let joined = unsafe { ncclCommInitRank(&raw mut comm, ranks as c_int, self.id, rank as c_int) };
        (joined, comm)
    }

    /// Begins to join, without waiting for the others.
    pub fn begin_to_join(&self, ranks: usize, rank: usize) -> (c_int, Handle) {
        let config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 22_707,
            blocking: 0,
        };
        let (mut comm, ranks, rank) = (null_mut(), ranks as c_int, rank as c_int);
        // SAFETY: reads the configuration, writes one handle.
        let joined =
            unsafe { ncclCommInitRankConfig(&raw mut comm, ranks, self.id, rank, &raw const config) };
        (joined, comm)
    }

    /// Memory in which sums depend on the order in which they are added up.
    pub fn numbers(&self) -> u64 {
        let scale = |i: usize| [1.0, 1e7, -1e7, 1e-3][(self.rank + i) % 4];
        let values = std::array::from_fn(|i| (self.rank * 7 + i + 1) as f32 * scale(i));
        self.machine.holding(&values, self.stream)
    }

    pub fn content(&self, address: u64) -> [f32; N] {
        self.machine.content(address, self.stream)
    }

    /// Says something to the test.
    pub fn say(&self, what: &str) {
        println!("\n{RESULT}rank {}: {what}", self.rank);
    }
}

impl Orders {
    pub fn of_this_process() -> Option<Self> {
        let numbers = |name| -> Option<Vec<u64>> {
            let said = env::var(name).ok()?;
            Some(said.split(',').map(|number| number.parse().unwrap()).collect())
        };
        Some(Self {
            program: env::var(PROGRAM).ok()?,
            ranks: numbers(RANKS)?.into_iter().map(|rank| rank as usize).collect(),
            all: numbers(ALL)?[0] as usize,
            id: UniqueId(numbers(ID)?.try_into().unwrap()),
        })
    }

    pub fn obey(self) {
        let program = programs::find(&self.program);
        let machine = Machine::new(self.all, 1);
        thread::scope(|scope| {
            for rank in &self.ranks {
                let (machine, orders) = (&machine, &self);
                scope.spawn(move || {
                    machine.enter(*rank as c_int);
                    program(&Rank {
                        machine,
                        rank: *rank,
                        ranks: orders.all,
                        id: orders.id,
                        stream: machine.stream(),
                    });
                });
            }
        });
        for report in machine.reports() {
            println!("\n{REPORT}{} {}", report.rule.id(), report.text);
        }
    }
}

/// A program under way, in several processes.
pub struct Job {
    id: UniqueId,
    pub processes: Vec<Child>,
}

/// What came of it.
pub struct Ended {
    /// What ranks have said, in their order.
    pub results: Vec<String>,
    /// Rules that were broken, and how.
    pub reports: Vec<String>,
}

/// Whose ranks each process has: `[1, 1]` are two processes of one rank.
pub type Split<'a> = &'a [usize];

/// Starts a program; every process also has what `environment` says of it.
pub fn start(
    program: &str,
    split: Split<'_>,
    environment: impl Fn(usize) -> Vec<(&'static str, String)>,
) -> Job {
    let id = UniqueId::new();
    let all: usize = split.iter().sum();
    let join = |numbers: Vec<String>| numbers.join(",");
    let mut first = 0;
    let processes = split.iter().enumerate().map(|(process, ranks)| {
        let mine = (first..first + ranks).map(|rank| rank.to_string()).collect();
        first += ranks;
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_process", "--nocapture", "--test-threads=1"])
            .env(PROGRAM, program)
            .env(RANKS, join(mine))
            .env(ALL, all.to_string())
            .env(ID, join(id.0.map(|word| word.to_string()).to_vec()))
            .envs(environment(process))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let processes = processes.collect();
    Job { id, processes }
}

/// Runs a program to its end, without anything in the environment.
pub fn run(program: &str, split: Split<'_>) -> Ended {
    start(program, split, |_| Vec::new()).end(&[])
}

impl Job {
    /// The file by which the processes meet.
    pub fn board(&self) -> PathBuf {
        format!("/dev/shm/cudasim-nccl-{:016x}", self.id.0[1]).into()
    }

    pub fn signal(&self, process: usize, signal: c_int) {
        // SAFETY: a child that has not been waited for.
        assert_eq!(
            unsafe { libc::kill(self.processes[process].id() as c_int, signal) },
            0
        );
    }

    /// Waits for all processes. All but those that are named end well. No file is left.
    pub fn end(self, killed: &[usize]) -> Ended {
        let board = self.board();
        let mut ended = Ended {
            results: Vec::new(),
            reports: Vec::new(),
        };
        for (number, process) in self.processes.into_iter().enumerate() {
            let Output {
                status,
                stdout,
                stderr,
            } = process.wait_with_output().unwrap();
            let (stdout, stderr) = (
                String::from_utf8(stdout).unwrap(),
                String::from_utf8(stderr).unwrap(),
            );
            assert_eq!(
                status.success(),
                !killed.contains(&number),
                "{status}: {stdout}{stderr}"
            );
            let lines = |mark: &'static str| {
                let lines = stdout.lines().filter_map(move |line| line.strip_prefix(mark));
                lines.map(str::to_owned)
            };
            ended.results.extend(lines(RESULT));
            ended.reports.extend(lines(REPORT));
        }
        assert!(!board.exists(), "{} is left", board.display());
        ended.results.sort();
        ended
    }
}

impl Ended {
    /// The rules that were broken.
    pub fn rules(&self) -> BTreeSet<&str> {
        let rule = |report: &'_ String| report.split(' ').next().map(str::len).unwrap_or(0);
        self.reports
            .iter()
            .map(|report| &report[..rule(report)])
            .collect()
    }
}
