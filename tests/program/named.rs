//! Nothing passes in silence: odd and unreadable images, numbers that are not finite, networks that count twice; and what
//! would fail after the last image fails before the first.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::evaluation::trained;
use crate::images::{folder, shards, write_folder};
use crate::tool::{command, errors, run_fails, run_json, run_ok};

const LOOKS: [&[&str]; 2] = [&["--protocol", "center"], &["--protocol", "dense", "--flip"]];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/images")
        .join(name)
}

/// A JPEG whose second half is missing: it decodes in part.
fn write_half(path: &Path) {
    let whole = fs::read(golden("420.jpg")).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

/// Shards with 21 validation images, of which one decodes in part and another not at all.
pub(crate) fn odd_and_bad_shards(parent: &Path) -> PathBuf {
    let (images, data) = (parent.join("images"), parent.join("shards"));
    write_folder(&images);
    write_half(&images.join("val/class3/half.jpg"));
    run_ok([
        OsStr::new("pack"),
        "--images".as_ref(),
        images.as_ref(),
        "--out".as_ref(),
        data.as_ref(),
    ]);
    let entries = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let shard = entries
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with("validation-0000.tar"))
        .unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1536 + 60] ^= 4;
    fs::write(&shard, bytes).unwrap();
    data
}

fn weights() -> [&'static str; 2] {
    ["--weights", trained().to_str().unwrap()]
}

/// Runs `predict` with `--json`, whatever comes of it.
fn predict(more: &[&OsStr]) -> (Output, Value) {
    let output = command(["predict"])
        .args(weights())
        .args(more)
        .arg("--json")
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, report)
}

fn files(report: &Value) -> Vec<&str> {
    let predictions = report["predictions"].as_array().unwrap().iter();
    predictions
        .map(|prediction| prediction["file"].as_str().unwrap())
        .collect()
}

#[test]
fn one_broken_image_does_not_cost_the_others() {
    let temporary = tempfile::tempdir().unwrap();
    let good = folder().join("val/class1/0.png");
    let broken = temporary.path().join("broken.jpg");
    fs::write(&broken, "no image").unwrap();
    let missing = temporary.path().join("missing.jpg");
    let half = temporary.path().join("half.jpg");
    write_half(&half);
    for look in LOOKS {
        let mut said: Vec<&OsStr> = look.iter().map(OsStr::new).collect();
        said.extend([&broken, &good, &missing, &half].map(|path| path.as_os_str()));
        let (output, report) = predict(&said);
        let named = errors(&output);
        assert_eq!(output.status.code(), Some(7), "{named}");
        assert_eq!(files(&report), [good.to_str().unwrap(), half.to_str().unwrap()]);
        assert_eq!(report["bad"].as_array().unwrap().len(), 3);
        for (what, path) in [
            ("left out", &broken),
            ("left out", &missing),
            ("kept, but odd", &half),
        ] {
            assert!(
                named.contains(&format!("{what}: {}: ", path.display())),
                "{named}"
            );
        }
        assert!(named.contains("2 of 4 samples are bad"), "{named}");
        let (output, report) = predict(&said[look.len() + 3..]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(report["bad"][0]["action"], "kept");
    }
    let out = temporary.path().join("f.npy");
    let output = command(["features"])
        .args(weights())
        .args([OsStr::new("--out"), out.as_ref(), half.as_ref()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(errors(&output).contains("kept, but odd: "), "{}", errors(&output));
}

#[test]
fn evaluations_name_what_they_count_and_what_they_do_not() {
    let temporary = tempfile::tempdir().unwrap();
    let data = odd_and_bad_shards(temporary.path());
    for look in LOOKS {
        let output = command(["eval", "--data", data.to_str().unwrap(), "--json"])
            .args(weights())
            .args(look)
            .output()
            .unwrap();
        let named = errors(&output);
        assert_eq!(output.status.code(), Some(0), "{named}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["n"], 20);
        let bad = report["bad"].as_array().unwrap();
        let mut actions: Vec<_> = bad
            .iter()
            .map(|event| event["action"].as_str().unwrap())
            .collect();
        actions.sort_unstable();
        assert_eq!(actions, ["kept", "left_out"]);
        assert!(bad.iter().all(|event| event["reason"].is_string()));
        assert!(
            named.contains("left out: ") && named.contains("kept, but odd: "),
            "{named}"
        );
    }
}

#[test]
fn names_that_are_not_utf8_are_printed_as_far_as_they_are() {
    let temporary = tempfile::tempdir().unwrap();
    let name = OsStr::from_bytes(b"\xff\xfe.png");
    fs::copy(folder().join("val/class1/0.png"), temporary.path().join(name)).unwrap();
    let (output, report) = predict(&[temporary.path().as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(files(&report)[0].ends_with("\u{fffd}\u{fffd}.png"));
    let out = temporary.path().join(OsStr::from_bytes(b"\xff.npy"));
    let output = command(["features", "--json"])
        .args(weights())
        .args([OsStr::new("--out"), out.as_ref(), temporary.path().as_ref()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["out"].as_str().unwrap().ends_with("\u{fffd}.npy"));
}

/// What stands in recipe.toml and in the log is text.
#[test]
fn a_run_on_a_path_that_is_not_utf8_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let run = temporary.path().join("run");
    let data = OsStr::from_bytes(b"\xff");
    let flags = ["train", "--config", "A", "--run", run.to_str().unwrap(), "--data"];
    let said = run_fails(3, flags.map(OsStr::new).into_iter().chain([data]));
    assert!(
        said.contains("--data") && said.contains("UTF-8") && !run.exists(),
        "{said}"
    );
}

/// One list of extensions, and links followed once.
#[test]
fn folders_give_every_image_that_pack_would_take() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    fs::create_dir_all(at("images/below")).unwrap();
    fs::create_dir(at("elsewhere")).unwrap();
    for (from, to) in [
        ("palette.gif", "images/a.GIF"),
        ("lossy.webp", "images/below/b.webp"),
        ("420.jpg", "images/c.jfif"),
        ("420.jpg", "images/.hidden.jpg"),
        ("grey.png", "elsewhere/e.png"),
    ] {
        fs::copy(golden(from), at(to)).unwrap();
    }
    fs::write(at("images/notes.txt"), "no image").unwrap();
    symlink("../elsewhere", at("images/d")).unwrap();
    symlink("..", at("images/below/up")).unwrap();
    let (output, report) = predict(&[at("images").as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let expected = ["a.GIF", "below/b.webp", "c.jfif", "d/e.png"].map(|name| at("images").join(name));
    assert_eq!(
        files(&report),
        expected.each_ref().map(|path| path.to_str().unwrap())
    );
}

/// A pipe can be read once, though dense evaluation reads an image for its size and again for its pixels.
#[test]
fn an_image_may_come_through_a_pipe() {
    let image = folder().join("val/class1/0.png");
    let look = ["--protocol", "dense", "--scales", "36,40"].map(OsStr::new);
    let (_, of_file) = predict(&[&look[..], &[image.as_os_str()]].concat());
    let mut cat = std::process::Command::new("cat")
        .arg(&image)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = command(["predict", "--json", "/dev/stdin"])
        .args(weights())
        .args(look)
        .stdin(cat.stdout.take().unwrap())
        .output()
        .unwrap();
    cat.wait().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let of_pipe: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(of_pipe["predictions"][0]["top"], of_file["predictions"][0]["top"]);
}

#[test]
fn an_evaluation_of_nothing_is_an_error() {
    for protocol in ["dense", "adaptive"] {
        let mut flags = vec![
            "eval",
            "--data",
            shards(),
            "--protocol",
            protocol,
            "--scales",
            "3000",
        ];
        flags.extend(weights());
        let said = run_fails(7, flags);
        assert!(said.contains("20 of 20 samples are bad"), "{said}");
        assert!(said.contains("pixels after rescaling"), "{said}");
    }
}

/// The trained network with weights so large that sums overflow; a plain file, and one that says how images are seen.
fn overflowing(folder: &Path) -> [OsString; 2] {
    let at = |name: &str| folder.join(name).into_os_string();
    let [whole, plain, told] = ["whole", "plain", "told"].map(|name| at(&format!("{name}.safetensors")));
    run_ok([OsStr::new("convert"), trained().as_ref(), &whole]);
    let bytes = fs::read(&whole).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let scaled: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let factor = if name.ends_with("weight") { 1e36 } else { 1.0 };
            let values = tensor.data().as_chunks().0.iter();
            let values = values.flat_map(|x| (factor * f32::from_le_bytes(*x)).to_le_bytes());
            (name, tensor.shape().to_vec(), values.collect())
        })
        .collect();
    let views = scaled.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    fs::write(&plain, safetensors::serialize(views, None).unwrap()).unwrap();
    run_ok([OsStr::new("convert"), &plain, &told]);
    [plain, told]
}

#[test]
fn numbers_that_are_not_finite_name_the_network_and_the_image() {
    let temporary = tempfile::tempdir().unwrap();
    let [plain, told] = overflowing(temporary.path());
    let image = folder().join("val/class1/0.png");
    let out = temporary.path().join("f.npy");
    for look in LOOKS {
        for file in [&plain, &told] {
            let mut flags = vec![
                OsStr::new("eval"),
                "--data".as_ref(),
                shards().as_ref(),
                "--weights".as_ref(),
                file,
            ];
            flags.extend(look.iter().map(OsStr::new));
            let said = run_fails(6, flags);
            assert!(
                said.contains(file.to_str().unwrap()) && said.contains("validation-0000.tar at byte"),
                "{said}"
            );
        }
        let mut flags = vec![OsStr::new("predict"), "--weights".as_ref(), &told, image.as_ref()];
        flags.extend(look.iter().map(OsStr::new));
        let said = run_fails(6, flags);
        assert!(
            said.contains("told.safetensors") && said.contains("class1/0.png"),
            "{said}"
        );
    }
    let flags = [
        OsStr::new("features"),
        "--weights".as_ref(),
        &told,
        "--out".as_ref(),
        out.as_ref(),
        image.as_ref(),
    ];
    let said = run_fails(6, flags);
    assert!(said.contains("told.safetensors") && !out.exists(), "{said}");
}

/// The first network says, when it is computed, that its file does not say how images are preprocessed.
#[test]
fn what_would_fail_in_the_end_is_refused_first() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name).to_str().unwrap().to_string();
    let [plain, _] = overflowing(temporary.path());
    let below = format!("{}@10", trained().display());
    let (nowhere, unwritable) = (at("nowhere"), at("no/such/folder/f.npy"));
    for (flag, value) in [
        ("--weights", &nowhere),
        ("--weights", &below),
        ("--posteriors", &nowhere),
        ("--save-posteriors", &unwritable),
        ("--save-posteriors", &at("")),
    ] {
        let look = ["--scales", "64", "--protocol", "multi-crop"];
        let mut flags = vec![
            "eval",
            "--data",
            shards(),
            "--weights",
            plain.to_str().unwrap(),
            flag,
            value,
        ];
        flags.extend(look);
        let said = run_fails(3, flags);
        assert!(!said.contains("do not say how"), "{flag} {value}: {said}");
        let named = if value == &below {
            "--scales"
        } else {
            value.as_str()
        };
        assert!(said.contains(named), "{flag} {value}: {said}");
    }
    let mut flags = vec!["features", "--out", &unwritable, "no-such-image.png"];
    flags.extend(weights());
    assert!(run_fails(3, flags).contains("no/such/folder"));
}

#[test]
fn a_network_that_counts_twice_is_named() {
    let [flag, run] = weights();
    let eval = |more: &[&str]| {
        let output = command(["eval", "--data", shards(), flag, run, flag, run])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        errors(&output)
    };
    assert!(eval(&[]).contains("the same network counts twice: center"));
    let own = format!("{run}@40");
    let output = command(["eval", "--data", shards(), flag, run, flag, &own])
        .output()
        .unwrap();
    assert!(!errors(&output).contains("twice"), "{}", errors(&output));
}

#[test]
fn posteriors_alone_take_no_word_on_networks() {
    let temporary = tempfile::tempdir().unwrap();
    let saved = temporary.path().join("saved");
    let saved = saved.to_str().unwrap();
    let base = ["eval", "--data", shards()];
    run_ok([&base[..], &weights(), &["--save-posteriors", saved]].concat());
    let alone = [&base[..], &["--posteriors", saved]].concat();
    let report = run_json(&alone);
    assert_eq!(
        (&report["n"], &report["images_per_sec"]),
        (&20.into(), &0.0.into())
    );
    assert!(!run_ok(&alone).contains("images/s"));
    let said = run_fails(2, [&alone[..], &["--score-average", "posteriors"]].concat());
    assert!(said.contains("--score-average"), "{said}");
    let dense = ["--protocol", "dense", "--score-average", "posteriors"];
    run_ok([&alone[..], &weights(), &dense].concat());
}

/// A layer before the first fully connected one needs no more of an image than its poolings leave.
#[test]
fn features_of_convolutions_are_taken_at_small_scales() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("f.npy");
    let image = folder().join("val/class1/0.png");
    let features = |layer: &str, scale: &str| -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec!["features".into()];
        flags.extend(weights().map(Into::into));
        flags.extend(["--out".into(), out.clone().into(), image.clone().into()]);
        flags.extend(["--layer", layer, "--scales", scale].map(Into::into));
        flags
    };
    for (layer, least) in [
        ("conv1_1", 1),
        ("pool1", 2),
        ("conv4_2", 8),
        ("conv5_2", 16),
        ("fc7", 32),
    ] {
        run_json(features(layer, &least.to_string()));
        let said = run_fails(
            if least == 1 { 2 } else { 3 },
            features(layer, &(least - 1).to_string()),
        );
        assert!(said.contains("--scales"), "{said}");
    }
}
