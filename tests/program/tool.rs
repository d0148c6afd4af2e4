//! Running the program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::str::FromStr;

use serde_json::Value;

pub(crate) fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verydeep"));
    command.args(arguments);
    command
}

/// Runs it and returns standard output; panics with what it said if the exit code is not 0.
pub(crate) fn run_ok<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = command(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it with an expected exit code and returns what it said on standard error, which must be no panic.
pub(crate) fn run_fails<S: AsRef<OsStr>>(code: i32, arguments: impl IntoIterator<Item = S>) -> String {
    let output = command(arguments).output().unwrap();
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.is_empty());
    said
}

/// Runs it with `--json` and parses the one object.
pub(crate) fn run_json<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Value {
    let mut command = command(arguments);
    let output = command.arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The flags of a small training run.
pub(crate) fn small<'a>(shards: &'a str, run: &'a Path) -> Vec<&'a str> {
    let mut flags = vec![
        "train",
        "--data",
        shards,
        "--run",
        run.to_str().unwrap(),
        "--quiet",
    ];
    flags.extend(
        "--crop 32 --scale 32..40 --width 0.0625 --fc 16 --batch 12 --micro-batch 3 --init he".split(' '),
    );
    flags.extend("--lr 0.0001 --schedule cosine --config".split(' '));
    flags
}

/// The events of a run of one kind.
pub(crate) fn events(run: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|event| event["event"] == kind).collect()
}

/// The hashes of the last `end` event.
pub(crate) fn hashes(run: &Path) -> (String, String) {
    let end = events(run, "end").pop().unwrap();
    let text = |key: &str| end[key].as_str().unwrap().to_string();
    (text("weights_sha256"), text("state_sha256"))
}

/// The flags with another value of one of them.
pub(crate) fn with<'a>(mut flags: Vec<&'a str>, flag: &str, value: &'a str) -> Vec<&'a str> {
    let at = flags.iter().position(|other| *other == flag).unwrap();
    flags[at + 1] = value;
    flags
}

/// The seed of a test's draws, which is printed; VERYDEEP_TEST_SEED repeats it.
pub(crate) fn test_seed() -> u64 {
    let seed = said("VERYDEEP_TEST_SEED", std::process::id().into());
    note(&format!("VERYDEEP_TEST_SEED={seed}"));
    seed
}

/// For whoever reads what a test says.
#[expect(clippy::print_stderr, reason = "a failing test shows it")]
pub(crate) fn note(what: &str) {
    eprintln!("{what}");
}

/// A number that a nightly run says in the environment.
pub(crate) fn said<T: FromStr>(variable: &str, otherwise: T) -> T {
    let said = std::env::var(variable).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Every file below a folder, by its path there.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            let below = contents(&path).into_iter();
            files.extend(below.map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

/// Copies a folder and everything below it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    for (file, bytes) in contents(from) {
        let path = to.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
