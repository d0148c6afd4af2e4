//! The floors of ARCHITECTURE.md: a module imports only from floors below its own, and from its own module.

use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by floor, lowest first; modules of one floor do not import each other.
const FLOORS: [&[&str]; 10] = [
    &["error", "rng", "shape", "text", "durable"],
    &["network", "data"],
    &["plan", "weights"],
    &["backend"],
    &["exec"],
    &["parallel"],
    &["eval"],
    &["train"],
    &["bench"],
    &["cli"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Source files with the top-level module that they belong to.
fn sources() -> Vec<(String, PathBuf)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let module = |path: &Path| {
        let first = path.strip_prefix(&src).unwrap().components().next().unwrap();
        first
            .as_os_str()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_string()
    };
    files.into_iter().map(|path| (module(&path), path)).collect()
}

/// Every top-level module that a source text names as `crate::module`, also in braces: `crate::{a, b::c}`.
fn imported(text: &str) -> Vec<String> {
    let word = |s: &str| {
        s.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => modules.push(word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            modules.push(word(&list[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    modules
}

#[test]
fn modules_import_from_below_only() {
    let mut violations = Vec::new();
    for (module, path) in sources()
        .into_iter()
        .filter(|(module, _)| module != "lib" && module != "main")
    {
        let own = floor(&module)
            .unwrap_or_else(|| panic!("{} is on no floor: add it to the table", path.display()));
        for import in imported(&fs::read_to_string(&path).unwrap()) {
            // Re-exports of the crate root (`crate::Error`) and macros count as floor 0.
            let Some(target) = floor(&import) else { continue };
            // Errors are everybody's.
            if import != module && import != "error" && target >= own {
                violations.push(format!(
                    "{}: {module} (floor {own}) imports {import} (floor {target})",
                    path.display()
                ));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_import_reader_reads_braces() {
    let text = "use crate::error::{Error, Result};\nuse crate::{data::x, plan::{a, b}, exec};\nlet y = crate::eval::z();";
    assert_eq!(imported(text), ["error", "data", "plan", "exec", "eval"]);
}

/// What must not be where: see "Absences" in ARCHITECTURE.md.
#[test]
fn absences_are_kept() {
    for (module, path) in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let forbid =
            |word: &str, why: &str| assert!(!code.contains(word), "{}: {word}: {why}", path.display());
        if module != "cli" {
            for print in ["println!", "print!(", "eprint", "stdout()", "stderr()"] {
                forbid(print, "only cli prints");
            }
        }
        // NVIDIA's libraries must be found, and compiled kernels are kept on disk; images and weights are not theirs.
        let of_cuda = ["backend/cuda/libraries.rs", "backend/cuda/image.rs"];
        if module == "backend" && !of_cuda.iter().any(|file| path.ends_with(file)) {
            forbid("std::fs", "back ends read no files");
        }
        if module != "backend" {
            forbid("cudarc", "only backend/cuda names cudarc");
        }
        if path
            .components()
            .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
        {
            continue; // a test may compute what it expects as it likes
        }
        let production = code.split("#[cfg(test)]").next().unwrap_or_default();
        for write in [
            "File::create",
            "OpenOptions",
            "fs::write(",
            "fs::rename",
            "fs::create_dir",
            "fs::remove_file",
            "set_len(",
        ] {
            assert!(
                module == "durable" || !production.replace("NewFile::create", "").contains(write),
                "{}: {write}: only durable writes files",
                path.display()
            );
        }
        for host in [".powf(", ".exp()", ".ln()", ".sin()", ".cos()", ".powi("] {
            if ["network", "plan", "backend", "exec", "rng", "train"].contains(&module.as_str()) {
                assert!(
                    !production.contains(host),
                    "{}: {host}: nothing from the host's libm",
                    path.display()
                );
            }
        }
    }
}
