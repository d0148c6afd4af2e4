//! `tools/paper-chain`: the paper's whole training as one resumable chain.

use std::path::Path;
use std::process::Command;

use crate::images::shards;
use crate::tool::{errors, hashes, run_ok};

const STAGES: [&str; 12] = [
    "a-32", "a-lrn-32", "b-32", "c-32", "d-32", "e-32", "c-40", "d-40", "e-40", "c-jitter", "d-jitter",
    "e-jitter",
];

fn chain(out: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/paper-chain");
    let mut command = Command::new(script);
    command
        .env("VERYDEEP", env!("CARGO_BIN_EXE_verydeep"))
        .args(["--data", shards(), "--out"])
        .arg(out);
    command.args("--s1 32 --s2 40 --jitter 32..40 --".split(' '));
    command.args(
        "--crop 32 --width 0.0625 --fc 16 --batch 12 --micro-batch 6 --iterations 4 --quiet".split(' '),
    );
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

#[test]
fn a_chain_goes_on_where_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    chain(&whole);
    let trained = |out: &Path| STAGES.map(|stage| hashes(&out.join(stage)));
    let expected = trained(&whole);
    chain(&whole);
    assert_eq!(trained(&whole), expected, "finished stages are passed over");

    // Stopped in its third stage: the first two are whole, the third has two of its four steps.
    std::fs::create_dir(&stopped).unwrap();
    for stage in &STAGES[..2] {
        std::fs::rename(whole.join(stage), stopped.join(stage)).unwrap();
    }
    let third = stopped.join("b-32");
    let recipe = whole.join("b-32/recipe.toml");
    let init = stopped.join("a-32");
    run_ok([
        "train".as_ref(),
        "--recipe".as_ref(),
        recipe.as_os_str(),
        "--run".as_ref(),
        third.as_os_str(),
        "--init-from".as_ref(),
        init.as_os_str(),
        "--iterations".as_ref(),
        "2".as_ref(),
        "--quiet".as_ref(),
    ]);
    run_ok([
        "train",
        "--resume",
        third.to_str().unwrap(),
        "--iterations",
        "4",
        "--quiet",
    ]);
    std::fs::remove_dir_all(&whole).unwrap();
    chain(&stopped);
    assert_eq!(trained(&stopped), expected);
}
