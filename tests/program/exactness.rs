//! The same weights, to the bit.

use crate::images::shards;
use crate::tool::{events, hashes, run_json, run_ok, small};

const NETS: [&[&str]; 5] = [&["A"], &["A-LRN"], &["C"], &["D"], &["A", "--batch-norm"]];

/// With dropout, random scales, crops, flips and colours.
#[test]
fn one_and_two_threads_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for net in NETS {
        let trained = ["1", "2"].map(|threads| {
            let run = folder.path().join(format!("{}-{threads}", net.join("")));
            let mut flags = small(shards(), &run);
            flags.extend(net);
            flags.extend(["--iterations", "6", "--threads", threads]);
            run_ok(flags);
            hashes(&run)
        });
        assert_eq!(trained[0], trained[1], "{net:?}");
    }
}

#[test]
fn the_order_of_the_walk_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for net in NETS {
        let trained = ["depth-first", "fc-first"].map(|order| {
            let run = folder.path().join(format!("{}-{order}", net.join("")));
            let mut flags = small(shards(), &run);
            flags.extend(net);
            flags.extend(["--iterations", "4", "--walk", order]);
            run_ok(flags);
            hashes(&run)
        });
        assert_eq!(trained[0], trained[1], "{net:?}");
    }
}

#[test]
fn another_seed_gives_other_bits() {
    let folder = tempfile::tempdir().unwrap();
    let trained = ["1", "2"].map(|seed| {
        let run = folder.path().join(seed);
        let mut flags = small(shards(), &run);
        flags.extend(["A", "--iterations", "1", "--seed", seed]);
        run_ok(flags);
        hashes(&run)
    });
    assert_ne!(trained[0], trained[1]);
}

/// A run's length never changes its steps, except with a cosine.
#[test]
fn a_run_that_is_made_longer_takes_the_steps_of_a_long_one() {
    let folder = tempfile::tempdir().unwrap();
    for schedule in ["plateau", "step:1,0.5"] {
        let run = |name: &str| folder.path().join(format!("{}-{name}", &schedule[..4]));
        let (long, grown) = (run("long"), run("grown"));
        for (run, iterations) in [(&long, "10"), (&grown, "7")] {
            let mut flags = small(shards(), run);
            flags.extend([
                "A",
                "--schedule",
                schedule,
                "--iterations",
                iterations,
                "--plateau-patience",
                "1",
            ]);
            flags.extend(["--validate-every", "2"]);
            run_ok(flags);
        }
        run_ok([
            "train",
            "--resume",
            grown.to_str().unwrap(),
            "--iterations",
            "10",
            "--quiet",
        ]);
        assert_eq!(hashes(&long), hashes(&grown), "{schedule}");
        let steps: Vec<_> = events(&grown, "step")
            .iter()
            .map(|event| event["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, (1..=10).collect::<Vec<_>>());
    }
}

#[test]
fn a_finished_run_resumes_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--epochs", "1"]);
    let first = run_json(flags);
    assert_eq!(first["step"], 4, "48 images in batches of 12");
    let again = run_json(["train", "--resume", run.to_str().unwrap()]);
    assert_eq!(first, again);
}

/// They round differently, so a run keeps to the one of its recipe.
#[test]
fn each_algorithm_of_convolutions_is_a_class_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let runs = ["winograd4", "winograd2", "direct"].map(|algorithm| {
        let run = folder.path().join(algorithm);
        let mut flags = small(shards(), &run);
        flags.extend(["A", "--iterations", "2", "--conv-algo", algorithm]);
        run_ok(flags);
        let start = events(&run, "start").remove(0);
        assert_eq!(start["recipe"]["conv-algo"], algorithm);
        (hashes(&run), start["class"].clone())
    });
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert_ne!(runs[one].0, runs[other].0);
        assert_ne!(runs[one].1, runs[other].1);
    }
}

/// `recipe.toml` is a recipe: it decides the same run.
#[test]
fn a_decided_recipe_decides_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let mut flags = small(shards(), &first);
    flags.extend([
        "A",
        "--iterations",
        "2",
        "--batch-norm",
        "--conv-algo",
        "winograd2",
    ]);
    run_ok(flags);
    let recipe = first.join("recipe.toml");
    run_ok([
        "train",
        "--recipe",
        recipe.to_str().unwrap(),
        "--run",
        second.to_str().unwrap(),
        "--quiet",
    ]);
    assert_eq!(hashes(&first), hashes(&second));
    let read = |run: &std::path::Path| std::fs::read_to_string(run.join("recipe.toml")).unwrap();
    assert_eq!(read(&first), read(&second));
}

/// The paper's staging and fine-tuning start from other runs' weights.
#[test]
fn staging_copies_the_layers_of_the_paper_and_weights_copies_all() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, d, tuned) = (at("a"), at("d"), at("tuned"));
    let mut flags = small(shards(), &a);
    flags.extend(["A", "--iterations", "2"]);
    run_ok(flags);
    let mut flags = small(shards(), &d);
    flags.extend([
        "D",
        "--init-from",
        a.to_str().unwrap(),
        "--iterations",
        "1",
        "--lr",
        "0",
    ]);
    run_ok(flags);
    let arrays = |run: &std::path::Path, step: u64| {
        let file = run.join(format!("checkpoints/step-{step:09}.safetensors"));
        std::fs::read(file).unwrap()
    };
    let (a_bytes, d_bytes) = (arrays(&a, 2), arrays(&d, 1));
    let (a_file, d_file) = (
        safetensors::SafeTensors::deserialize(&a_bytes).unwrap(),
        safetensors::SafeTensors::deserialize(&d_bytes).unwrap(),
    );
    // (net A, net D) under torchvision's names: conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8.
    let staged =
        [(0, 0), (3, 5), (6, 10), (8, 12)].map(|(a, d)| (format!("features.{a}"), format!("features.{d}")));
    let heads = [0, 3, 6].map(|i| (format!("classifier.{i}"), format!("classifier.{i}")));
    for (from, to) in staged.iter().chain(&heads) {
        for kind in ["weight", "bias"] {
            let (mine, theirs) = (
                d_file.tensor(&format!("{to}.{kind}")).unwrap(),
                a_file.tensor(&format!("{from}.{kind}")).unwrap(),
            );
            assert_eq!(mine.data(), theirs.data(), "{to}.{kind}");
        }
    }
    let mut flags = small(shards(), &tuned);
    flags.extend([
        "A",
        "--weights",
        a.to_str().unwrap(),
        "--iterations",
        "1",
        "--lr",
        "0",
    ]);
    run_ok(flags);
    assert_eq!(hashes(&a).0, hashes(&tuned).0);
}
