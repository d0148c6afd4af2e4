//! The commands on `docs/data.md`, in their order, in one folder: they end as it says and print what it shows.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::images::write_folder;
use crate::tool::errors;

struct Example {
    command: String,
    exit: i32,
    output: Vec<String>,
}

/// `$ command` and the lines below it, of every console block.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_block = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| in_block) {
            let (command, exit) = command.split_once(" # exit ").unwrap_or((command, "0"));
            examples.push(Example {
                command: command.into(),
                exit: exit.parse().unwrap(),
                output: Vec::new(),
            });
        } else if in_block {
            examples.last_mut().unwrap().output.push(line.into());
        }
    }
    examples
}

/// Whether text is what a pattern says, in which `...` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once("...") {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let ends = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
            ends.into_iter().any(|at| matches(rest, &text[at..]))
        }),
    }
}

fn prepare(folder: &Path) {
    write_folder(&folder.join("photos"));
    fs::write(folder.join("photos/train/class0/broken.jpg"), b"no image").unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::create_dir(folder.join("theirs")).unwrap();
    for entry in fs::read_dir(golden.join("shards")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            fs::copy(&path, folder.join("theirs").join(path.file_name().unwrap())).unwrap();
        }
    }
    // In ImageNet's layout, by GNU tar.
    let layout = "mkdir n1 n2 v && cp $G/grey.png n1/n1_1.JPEG && cp $G/rgba.png n2/n2_1.JPEG \
                  && cp $G/deep.png v/ILSVRC2012_val_00000001.JPEG \
                  && (cd n1 && tar cf ../n1.tar *) && (cd n2 && tar cf ../n2.tar *) \
                  && tar cf ILSVRC2012_img_train.tar n1.tar n2.tar \
                  && (cd v && tar cf ../ILSVRC2012_img_val.tar *) && echo n2 > synsets.txt";
    let status = Command::new("sh")
        .args(["-ec", layout])
        .env("G", golden.join("images"))
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn the_examples_of_the_page_about_data_are_true() {
    let page = include_str!("../../docs/data.md");
    let examples = examples(page);
    assert!(examples.len() >= 10, "{} examples", examples.len());
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let program = Path::new(env!("CARGO_BIN_EXE_verydeep")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for example in examples {
        let output = Command::new("sh")
            .args(["-c", &example.command])
            .env("PATH", &path)
            .env("LC_ALL", "C")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = format!("$ {}\n{}", example.command, errors(&output));
        assert_eq!(output.status.code(), Some(example.exit), "{said}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let expected = example.output.join("\n");
        assert!(
            matches(&expected, printed.trim_end()) || example.output.is_empty(),
            "{said}expected:\n{expected}\nfound:\n{printed}"
        );
    }
}
