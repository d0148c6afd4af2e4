//! Compiles the kernels for the host and makes the names under which programs look for NVIDIA's libraries.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Instrumented, so that every access is seen; no contraction, as the real compilers are told; no standard library.
const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-O1",
    "-g",
    "-fPIC",
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wno-unknown-pragmas",
    "-Wno-return-type-c-linkage",
];

/// What programs load, and the names that it goes by.
const SONAMES: [&str; 5] = [
    "libcuda.so",
    "libnvrtc.so",
    "libcublasLt.so",
    "libcudnn.so",
    "libnccl.so.2",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = Path::new("../../kernels");
    for path in ["../../kernels", "planted", "src/simt.h", "src/anchor.cpp"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if Command::new("g++").arg("--version").output().is_err() {
        println!("cargo::error=the simulated device compiles the kernels with g++, which is not installed");
        return;
    }
    let mut objects = Vec::new();
    let mut table = String::from("pub(crate) static MODULES: &[Module] = &[\n");
    let mut externs = String::new();
    for folder in [kernels, Path::new("planted")] {
        for source in files(folder, "cu") {
            let name = source.file_stem().expect("a file").to_string_lossy().into_owned();
            let names = kernels_of(kernels, &source);
            objects.push(compile(&out, kernels, &source, &name, &names));
            writeln!(
                externs,
                "unsafe extern \"C\" {{ static cudasim_module_{name}: [Kernel; {}]; }}",
                names.len()
            )
            .expect("memory");
            writeln!(
                table,
                "    // SAFETY: a constant of the module's object file.\n    Module {{ name: {name:?}, text: \
                 include_str!({:?}), kernels: || unsafe {{ &cudasim_module_{name} }} }},",
                full(&source)
            )
            .expect("memory");
        }
    }
    table.push_str("];\n");
    table.push_str("pub(crate) static HEADERS: &[(&str, &str)] = &[\n");
    for header in files(kernels, "cuh") {
        let name = header.file_name().expect("a file").to_string_lossy().into_owned();
        writeln!(table, "    ({name:?}, include_str!({:?})),", full(&header)).expect("memory");
    }
    table.push_str("];\n");
    fs::write(out.join("modules.rs"), externs + &table).expect("OUT_DIR is writable");
    let anchor = out.join("anchor.o");
    run(Command::new("g++")
        .args(["-std=c++17", "-O1", "-fPIC", "-c", "src/anchor.cpp", "-o"])
        .arg(&anchor));
    objects.push(anchor);
    archive(&out, &objects);
    shims(&out);
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcudasim.so");
    // Kernels call the hooks and the hooks call kernels: one archive, all of it.
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static:+whole-archive=cudasim_kernels");
    println!("cargo::rustc-link-lib=m");
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    paths
}

fn full(path: &Path) -> PathBuf {
    path.canonicalize().expect("a file that was just listed")
}

/// The names of the `extern "C" __global__` functions of a file, those that macros declare among them.
fn kernels_of(kernels: &Path, source: &Path) -> Vec<String> {
    let mut command = Command::new("g++");
    command
        .args(["-E", "-P", "-x", "c++", "-std=c++17", "-I"])
        .arg(kernels)
        .arg(source);
    let text = run(&mut command);
    let declarations = text.split("extern \"C\" __global__").skip(1);
    let name = |declaration: &str| {
        let head = declaration.split_once("void ").map_or("", |(_, rest)| rest);
        head.split('(').next().unwrap_or_default().trim().to_string()
    };
    declarations.map(name).filter(|name| !name.is_empty()).collect()
}

/// One file in a namespace of its own, because files define functions of the same names, and the table of its kernels.
fn compile(out: &Path, kernels: &Path, source: &Path, name: &str, names: &[String]) -> PathBuf {
    let entries: Vec<String> = names
        .iter()
        .map(|kernel| format!("CUDASIM_KERNEL({kernel})"))
        .collect();
    let text = format!(
        "#include {:?}\nnamespace cudasim_{name} {{\n#include {:?}\n}}\nusing namespace cudasim_{name};\nextern \"C\" {{ \
         extern const cudasim_kernel cudasim_module_{name}[]; }}\nconst cudasim_kernel cudasim_module_{name}[] = \
         {{{}}};\n",
        full(Path::new("src/simt.h")),
        full(source),
        entries.join(", ")
    );
    let wrapper = out.join(format!("{name}.cpp"));
    let object = out.join(format!("{name}.o"));
    fs::write(&wrapper, text).expect("OUT_DIR is writable");
    let mut command = Command::new("g++");
    command
        .args(FLAGS)
        .arg("-I")
        .arg(full(kernels))
        .arg("-c")
        .arg(&wrapper)
        .arg("-o")
        .arg(&object);
    run(&mut command);
    object
}

fn archive(out: &Path, objects: &[PathBuf]) {
    let archive = out.join("libcudasim_kernels.a");
    // An archive from an earlier build may hold what is gone.
    if archive.exists() {
        fs::remove_file(&archive).expect("OUT_DIR is writable");
    }
    run(Command::new("ar").arg("crs").arg(&archive).args(objects));
}

/// A library without content for each name: it needs libcudasim.so, so that looking a function up in it finds the
/// simulator's. `cudasim_install` loads them.
fn shims(out: &Path) {
    let empty = out.join("empty.cpp");
    fs::write(&empty, "").expect("OUT_DIR is writable");
    // Stands in for the library that is being built, under its name.
    let stand_in = out.join("libcudasim.so");
    let link = |soname: &str, target: &Path, more: &[&str]| {
        let mut command = Command::new("g++");
        command
            .args(["-shared", "-fPIC", "-nostdlib", "-o"])
            .arg(target)
            .arg(&empty);
        command.arg(format!("-Wl,-soname,{soname}")).args(more);
        run(&mut command);
    };
    link("libcudasim.so", &stand_in, &[]);
    let mut table = String::from("static SHIMS: &[&[u8]] = &[\n");
    for soname in SONAMES {
        let target = out.join(format!("shim-{soname}"));
        let folder = format!("-L{}", out.display());
        link(soname, &target, &["-Wl,--no-as-needed", &folder, "-lcudasim"]);
        writeln!(table, "    include_bytes!({target:?}),").expect("memory");
    }
    table.push_str("];\n");
    fs::write(out.join("shims.rs"), table).expect("OUT_DIR is writable");
    // Or the program would be linked with the stand-in.
    fs::remove_file(stand_in).expect("it has just been made");
}

/// What the command says.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(
        output.status.success(),
        "{command:?}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
