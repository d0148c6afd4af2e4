//! Environments as launchers make them. `openmpi`, `srun` and `batch-script` were printed by `env` under Debian 12's
//! Open MPI 4.1.4 and Slurm 22.05, with the machine's name and addresses replaced; `torchrun` is written down from its
//! manual.

use super::slurm::{first_host, reserved_ports, tasks_of_node};
use super::*;

const OPENMPI: &str = include_str!("environments/openmpi.env");
const SRUN: &str = include_str!("environments/srun.env");
const BATCH_SCRIPT: &str = include_str!("environments/batch-script.env");
const TORCHRUN: &str = include_str!("environments/torchrun.env");

/// The variables of `text`, with `changes` to them; a change to nothing takes the variable away.
fn environment(text: &str, changes: &[(&str, &str)]) -> Environment {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .chain(changes.iter().copied())
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn launch(text: &str, changes: &[(&str, &str)]) -> Launch {
    Launch::from_environment(&environment(text, changes)).unwrap()
}

fn refusal(text: &str, changes: &[(&str, &str)]) -> String {
    let error = Launch::from_environment(&environment(text, changes)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

fn numbers(launch: &Launch) -> [usize; 4] {
    [launch.rank, launch.size, launch.local_rank, launch.local_size]
}

#[test]
fn torchrun_is_recognised() {
    let launch = launch(TORCHRUN, &[]);
    assert_eq!(numbers(&launch), [6, 8, 2, 4]);
    assert_eq!(launch.launcher, Launcher::Torchrun);
    assert_eq!(launch.coordinator.host, "node01");
    assert_eq!(launch.coordinator.ports, (29501..29509).collect::<Vec<_>>());
    assert_eq!(launch.coordinator.to_string(), "node01:29501..29508");
}

#[test]
fn mpirun_on_one_machine_meets_there() {
    let launch = launch(OPENMPI, &[]);
    assert_eq!(numbers(&launch), [1, 2, 1, 2]);
    assert_eq!(launch.launcher, Launcher::OpenMpi);
    assert_eq!(launch.coordinator.host, LOOPBACK);
    assert_eq!(launch.coordinator.ports.len(), usize::from(CANDIDATES));
}

#[test]
fn mpirun_on_several_machines_meets_at_its_own() {
    let wide = ("OMPI_COMM_WORLD_SIZE", "4");
    assert_eq!(launch(OPENMPI, &[wide]).coordinator.host, "10.0.0.7");
    let text = refusal(OPENMPI, &[wide, ("OMPI_MCA_orte_hnp_uri", "")]);
    assert!(text.contains("VERYDEEP_COORDINATOR: expected a value"), "{text}");
    let said = ("VERYDEEP_COORDINATOR", "node09:4000");
    let launch = launch(OPENMPI, &[wide, ("OMPI_MCA_orte_hnp_uri", ""), said]);
    assert_eq!(launch.coordinator.to_string(), "node09:4000");
}

#[test]
fn srun_is_recognised() {
    let launch = launch(SRUN, &[]);
    assert_eq!(numbers(&launch), [1, 2, 1, 2]);
    assert_eq!(launch.launcher, Launcher::Slurm);
    assert_eq!(launch.coordinator.to_string(), "127.0.0.1:12001..12003");
    assert_eq!(launch.job, "srun 1.0 restart 0");
}

#[test]
fn srun_on_several_nodes_meets_at_the_first() {
    let wide = [
        ("SLURM_STEP_NUM_NODES", "3"),
        ("SLURM_STEP_NODELIST", "gpu[03-05]"),
        ("SLURM_STEP_NUM_TASKS", "10"),
        ("SLURM_STEP_TASKS_PER_NODE", "4(x2),2"),
        ("SLURM_NODEID", "2"),
        ("SLURM_PROCID", "9"),
        ("SLURM_STEP_RESV_PORTS", ""),
    ];
    let launch = launch(SRUN, &wide);
    assert_eq!(numbers(&launch), [9, 10, 1, 2]);
    assert_eq!(launch.coordinator.host, "gpu03");
    assert!((20_000..30_000).contains(&launch.coordinator.ports[0]));
}

/// A script that sbatch started is one process, however many tasks it may start.
#[test]
fn a_batch_script_is_alone() {
    assert_eq!(launch(BATCH_SCRIPT, &[]), Launch::solo());
}

/// mpirun inside of a Slurm job sees both.
#[test]
fn the_innermost_launcher_counts() {
    let both = format!("{SRUN}\n{OPENMPI}");
    assert_eq!(launch(&both, &[]).launcher, Launcher::OpenMpi);
    let all = format!("{both}\n{TORCHRUN}");
    assert_eq!(launch(&all, &[]).launcher, Launcher::Torchrun);
}

#[test]
fn no_launcher_is_one_process() {
    assert_eq!(launch("", &[]), Launch::solo());
    assert_eq!(launch("", &[("WORLD_SIZE", "1")]), Launch::solo());
}

#[test]
fn by_hand() {
    let here = [
        ("VERYDEEP_RANK", "2"),
        ("VERYDEEP_SIZE", "4"),
        ("VERYDEEP_COORDINATOR", "127.0.0.1:4000"),
    ];
    let launched = launch(SRUN, &here);
    assert_eq!(numbers(&launched), [2, 4, 2, 4]);
    assert_eq!(launched.launcher, Launcher::ByHand);
    assert_eq!(launched.coordinator.ports, [4000]);
    let there = [here[0], here[1], ("VERYDEEP_COORDINATOR", "[fd00::7]:4000")];
    let text = refusal("", &there);
    assert!(text.contains("VERYDEEP_LOCAL_RANK: expected a value"), "{text}");
    let local = [("VERYDEEP_LOCAL_RANK", "0"), ("VERYDEEP_LOCAL_SIZE", "2")];
    let launched = launch("", &[&there[..], &local].concat());
    assert_eq!(launched.coordinator.host, "fd00::7");
    assert_eq!(numbers(&launched), [2, 4, 0, 2]);
}

#[test]
fn errors_name_the_variable() {
    for (text, changes, expected) in [
        (
            TORCHRUN,
            ("WORLD_SIZE", ""),
            "variable WORLD_SIZE: expected a value, found none",
        ),
        (
            TORCHRUN,
            ("MASTER_PORT", "many"),
            "MASTER_PORT: expected a number",
        ),
        (
            TORCHRUN,
            ("MASTER_PORT", "65536"),
            "MASTER_PORT: expected a number",
        ),
        (TORCHRUN, ("MASTER_ADDR", ""), "variable MASTER_ADDR"),
        (TORCHRUN, ("RANK", "-1"), "variable RANK: expected a number"),
        (
            TORCHRUN,
            ("RANK", "8"),
            "variable RANK: expected a number below 8, found 8",
        ),
        (
            TORCHRUN,
            ("LOCAL_RANK", "4"),
            "LOCAL_RANK: expected a number below 4",
        ),
        (
            TORCHRUN,
            ("LOCAL_WORLD_SIZE", "9"),
            "LOCAL_WORLD_SIZE: expected a number below 9",
        ),
        (
            OPENMPI,
            ("OMPI_COMM_WORLD_SIZE", ""),
            "variable OMPI_COMM_WORLD_SIZE",
        ),
        (SRUN, ("SLURM_LOCALID", "x"), "variable SLURM_LOCALID"),
        (
            SRUN,
            ("SLURM_STEP_TASKS_PER_NODE", "4(x"),
            "SLURM_STEP_TASKS_PER_NODE",
        ),
        (
            SRUN,
            ("VERYDEEP_COORDINATOR", "node01"),
            "VERYDEEP_COORDINATOR: expected HOST:PORT",
        ),
        (
            SRUN,
            ("VERYDEEP_COORDINATOR", "node01:0"),
            "VERYDEEP_COORDINATOR: expected HOST:PORT",
        ),
        ("", ("VERYDEEP_RANK", "0"), "variable VERYDEEP_SIZE"),
        ("", ("PMI_SIZE", "4"), "variable PMI_SIZE"),
        ("", ("WORLD_SIZE", "4"), "variable WORLD_SIZE"),
    ] {
        let found = refusal(text, &[changes]);
        assert!(found.contains(expected), "{changes:?}: {found}");
    }
}

#[test]
fn jobs_differ_and_processes_of_one_do_not() {
    let job = |changes: &[(&str, &str)]| launch(SRUN, changes).token();
    assert_eq!(job(&[]), job(&[("SLURM_PROCID", "0")]));
    for change in [
        ("SLURM_JOB_ID", "2"),
        ("SLURM_STEP_ID", "1"),
        ("SLURM_RESTART_COUNT", "1"),
    ] {
        assert_ne!(job(&[]), job(&[change]), "{change:?}");
    }
}

#[test]
fn lists_of_slurm() {
    for (list, first) in [
        ("node", Some("node")),
        ("node01,node02", Some("node01")),
        ("node[01-04,07],gpu3", Some("node01")),
        ("r[1-2]n[03-04]-ib", Some("r1n03-ib")),
        ("node[01", None),
        ("", None),
    ] {
        assert_eq!(first_host(list).as_deref(), first, "{list}");
    }
    assert_eq!(
        reserved_ports("12001-12003,5"),
        Some(vec![12001, 12002, 12003, 5])
    );
    assert_eq!(reserved_ports("12001-"), None);
    let tasks = |node| tasks_of_node("4(x2),3", node);
    assert_eq!([0, 1, 2, 3].map(tasks), [Some(4), Some(4), Some(3), None]);
}
