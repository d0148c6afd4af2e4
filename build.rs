//! Records what the program was built from, and embeds the CUDA kernels.
//!
//! The sources of `kernels/` always go in: without `nvcc`, NVRTC compiles them when a device is opened. Where `nvcc` is
//! found, machine code for every supported architecture goes in, too. A machine without CUDA never fails the build.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the machine code is made for: A100, H100, B200, RTX 50; and PTX for whatever comes after.
const ARCHITECTURES: [u32; 4] = [80, 90, 100, 120];

fn main() {
    record_commit();
    embed_kernels();
}

/// `verydeep --version` and every benchmark record say it.
fn record_commit() {
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=12"]);
    let commit = commit.unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=VERYDEEP_COMMIT={commit}");
    // What a commit or a checkout changes; the index also changes when somebody looks at the state of the tree. In a worktree
    // they lie elsewhere, and a file that does not exist would mean a build each time.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
}

/// What a command of git says, where there is git and a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}

/// Writes `kernels.rs`: `HEADERS: [Header; _]` and `MODULES: [Module; _]`, in the order of their names.
fn embed_kernels() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=PATH");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = find_nvcc();
    let mut table = String::new();
    let headers = sources("cuh");
    writeln!(table, "pub(super) const HEADERS: [Header; {}] = [", headers.len()).expect("memory");
    for path in &headers {
        let (name, full) = (file_name(path), full(path));
        writeln!(
            table,
            "    Header {{ name: c{name:?}, text: include_str!({full:?}) }},"
        )
        .expect("memory");
    }
    let modules = sources("cu");
    writeln!(
        table,
        "];\npub(super) const MODULES: [Module; {}] = [",
        modules.len()
    )
    .expect("memory");
    for path in &modules {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let fatbin = nvcc
            .as_deref()
            .and_then(|nvcc| compile(nvcc, path, &out.join(format!("{name}.fatbin"))));
        let fatbin = fatbin.map_or("None".to_string(), |file| {
            format!("Some(include_bytes!({file:?}))")
        });
        let full = full(path);
        writeln!(
            table,
            "    Module {{ name: {name:?}, text: include_str!({full:?}), fatbin: {fatbin} }},"
        )
        .expect("memory");
    }
    table.push_str("];\n");
    fs::write(out.join("kernels.rs"), table).expect("OUT_DIR is writable");
}

fn sources(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("kernels").into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

fn full(path: &Path) -> PathBuf {
    path.canonicalize().expect("a file that was just listed")
}

/// `NVCC` names it, or says `off`; else the PATH and the usual place are searched.
fn find_nvcc() -> Option<PathBuf> {
    if let Some(said) = env::var_os("NVCC") {
        return (said != "off").then(|| PathBuf::from(said));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = PathBuf::from("/usr/local/cuda/bin");
    let mut folders = env::split_paths(&path).chain([usual]);
    folders.find_map(|folder| Some(folder.join("nvcc")).filter(|nvcc| nvcc.is_file()))
}

/// Machine code and PTX of one file; a compiler that cannot make them is said aloud and done without.
fn compile(nvcc: &Path, source: &Path, target: &Path) -> Option<PathBuf> {
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "--fmad=false", "-lineinfo", "-o"]);
    command.arg(target).arg(source);
    for architecture in ARCHITECTURES {
        command.arg(format!(
            "-gencode=arch=compute_{architecture},code=sm_{architecture}"
        ));
    }
    let newest = ARCHITECTURES[ARCHITECTURES.len() - 1];
    command.arg(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    match command.output() {
        Ok(output) if output.status.success() => Some(target.to_path_buf()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
            warn(nvcc, source, &said);
            None
        }
        Err(why) => {
            warn(nvcc, source, &why.to_string());
            None
        }
    }
}

fn warn(nvcc: &Path, source: &Path, why: &str) {
    println!(
        "cargo::warning={} does not compile {}: {why}; NVRTC will compile it at run time (NVCC=off says so on purpose)",
        nvcc.display(),
        source.display()
    );
}
