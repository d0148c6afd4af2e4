//! The paper's tables with networks of ours in the paper's places.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::evaluation::trained;
use crate::images::shards;
use crate::protocols::eval;
use crate::tool::{command, errors, run_fails, run_json, run_ok, small, with};

/// Nets A of one step, trained at S = 36 and at S = 40.
fn fixed() -> &'static [PathBuf; 2] {
    static FIXED: OnceLock<(tempfile::TempDir, [PathBuf; 2])> = OnceLock::new();
    let (_, runs) = FIXED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let runs = ["36", "40"].map(|scale| {
            let run = folder.path().join(scale);
            let mut flags = with(small(shards(), &run), "--scale", scale);
            flags.extend(["A", "--iterations", "1"]);
            run_ok(flags);
            run
        });
        (folder, runs)
    });
    runs
}

fn flags(tables: &[&str], weights: &[(&str, &Path)]) -> Vec<String> {
    let mut flags: Vec<String> = vec!["reproduce".into()];
    flags.extend(tables.iter().map(ToString::to_string));
    flags.extend(["--data".into(), shards().into()]);
    for (name, run) in weights {
        flags.extend(["--weights".into(), format!("{name}={}", run.display())]);
    }
    flags
}

#[test]
fn tables_of_the_paper_stand_beside_ours() {
    let [low, _] = fixed();
    let report = run_json(flags(&["table3"], &[("A/256", low)]));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 12);
    let first = &rows[0];
    assert_eq!(
        (&first["name"], &first["paper"]["top1_error"]),
        (&"A/256, dense".into(), &29.6.into())
    );
    // It is tested at the S that it was trained on, densely and with flips.
    let own = low.to_str().unwrap();
    let look = ["--protocol", "dense", "--flip", "--scales", "36"];
    let own = run_json([&["eval", "--data", shards(), "--weights", own], &look[..]].concat());
    assert_eq!(first["ours"]["top1_error"], own["top1_error"]);
    assert_eq!(first["scales"], serde_json::json!({ "A/256": [36] }));
    let difference = first["difference"]["top1_error"].as_f64().unwrap();
    assert!((difference - (own["top1_error"].as_f64().unwrap() - 29.6)).abs() < 1e-9);
    assert!(rows[1..].iter().all(|row| row["ours"].is_null()));
    assert_eq!(report["bad"], serde_json::json!([]));

    let several = run_json(flags(&["table3", "table5", "table3"], &[("A", low)]));
    let several = &several["tables"];
    assert_eq!(report["tables"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&several[0], &several[2]),
        (&report["tables"][0], &report["tables"][0])
    );
    assert_eq!(several[0]["rows"], report["rows"]);
    assert_eq!(several[1]["rows"].as_array().unwrap().len(), 6);

    let others = run_json(flags(&["table7"], &[("A", low)]));
    let names: Vec<_> = others["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].clone())
        .collect();
    assert_eq!(names.len(), 15);
    assert!(names.contains(&"GoogLeNet, 7 nets".into()));
    let nowhere = Path::new("x");
    assert!(run_fails(3, flags(&["table3"], &[("Q/256", nowhere)])).contains("A-LRN"));
    assert!(
        run_fails(2, ["reproduce", "table3", "--data", shards(), "--weights", "x"]).contains("NAME=FILE")
    );
}

#[test]
fn rows_without_weights_say_whose_are_missing() {
    let [low, _] = fixed();
    let output = command(flags(&["table6"], &[("A/256", low)])).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("no weights for D/256..512, E/256..512"), "{said}");
    assert!(errors(&output).contains("A/256: no row"), "{}", errors(&output));
}

/// A network that is said twice would stand in a fusion where another one belongs.
#[test]
fn a_name_is_said_once_and_means_what_the_run_was_trained_on() {
    let [low, high] = fixed();
    let jittered = trained();
    let refused = |code, weights: &[(&str, &Path)]| run_fails(code, flags(&["table3"], weights));
    let said = refused(2, &[("A/256", low), ("A/384", high), ("A", high)]);
    assert!(
        said.contains("A/256 twice") && said.contains("--weights"),
        "{said}"
    );
    let warned = |weights: &[(&str, &Path)]| {
        let output = command(flags(&["table3"], weights)).output().unwrap();
        assert!(output.status.success());
        errors(&output)
    };
    let said = warned(&[("A/256", jittered)]);
    assert!(
        said.contains("trained at one S, this run at --scale 32..40"),
        "{said}"
    );
    let said = warned(&[("A/256..512", low)]);
    assert!(said.contains("a range of S, this run at --scale 36"), "{said}");
    for highs in [
        [("A/256", high), ("A/384", low)],
        [("A/256", low), ("A/384", low)],
    ] {
        let said = warned(&highs.map(|(name, run)| (name, run.as_path())));
        assert!(said.contains("changed places"), "{said}");
    }
    let said = warned(&[("A/256", low), ("A/384", high), ("A/256..512", jittered)]);
    assert!(!said.contains("warning"), "{said}");
    let report = run_json(flags(&["table3"], &[("A/256", low), ("A/384", high)]));
    assert_eq!(report["weights_sha256"].as_object().unwrap().len(), 2);
    let own = eval(&["--scales", "36"]);
    assert_eq!(own["n"], 20);
    let mut none = flags(&["table3"], &[("A/256", low)]);
    none.extend(["--batch", "0"].map(String::from));
    assert!(run_fails(3, none).contains("--batch"));
}

#[test]
fn bad_images_are_named_beside_the_tables() {
    let [low, _] = fixed();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::named::odd_and_bad_shards(folder.path());
    let mut flags = with_owned(flags(&["table3"], &[("A/256", low)]), data.to_str().unwrap());
    let report = run_json(&flags);
    let actions = |report: &Value| -> Vec<String> {
        let bad = report["bad"].as_array().unwrap().iter();
        bad.map(|event| event["action"].as_str().unwrap().into())
            .collect()
    };
    let mut found = actions(&report);
    found.sort();
    assert_eq!(found, ["kept", "left_out"]);
    assert_eq!(report["rows"][0]["ours"]["n"], 20);
    flags.extend(["--max-bad", "0"].map(String::from));
    let said = run_fails(7, &flags);
    assert!(
        said.contains("left out: ") && said.contains("kept, but odd: "),
        "{said}"
    );
    assert!(said.contains("1 of 21 samples are bad"), "{said}");
}

/// The flags with other data.
fn with_owned(mut flags: Vec<String>, data: &str) -> Vec<String> {
    let at = flags.iter().position(|flag| flag == "--data").unwrap();
    flags[at + 1] = data.into();
    flags
}
