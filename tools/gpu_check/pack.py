"""Making the bundle: what a machine without Rust and network needs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

TOOLS = pathlib.Path(__file__).resolve().parents[1]
REPOSITORY = TOOLS.parent
LARGEST_PROGRAM = 60_000_000  # bytes

# Test programs: their names in the bundle, and in `tests/`.
TESTS = {"judge": "backend", "kernels": "kernels"}


def cargo(*arguments):
    """Runs cargo and returns the messages that it printed."""
    command = ["cargo", *arguments, "--message-format=json"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"gpu-check: `{' '.join(command)}`: exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def executable(messages, name, is_test):
    """The file that cargo made of a target."""
    for message in messages:
        target = message.get("target", {})
        of_it = target.get("name") == name and message.get("profile", {}).get("test") == is_test
        if message.get("reason") == "compiler-artifact" and of_it and message.get("executable"):
            return pathlib.Path(message["executable"])
    sys.exit(f"gpu-check: cargo built no {name}")


def strip(source, to):
    """A copy without symbols and debug information."""
    shutil.copy2(source, to)
    subprocess.run(["strip", to], check=True)


def pack(out):
    """Builds, strips, and writes the bundle."""
    program = executable(cargo("build", "--release", "--bin", "verydeep"), "verydeep", False)
    tests = cargo("test", "--release", "--no-run", *(word for name in TESTS.values() for word in ("--test", name)))
    tests = {bundled: executable(tests, name, True) for bundled, name in TESTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        bundle = pathlib.Path(folder) / "gpu-check"
        assemble(bundle, program, tests)
        size = (bundle / "bin" / "verydeep").stat().st_size
        if size > LARGEST_PROGRAM:
            sys.exit(f"gpu-check: the program: expected at most {LARGEST_PROGRAM} bytes, found {size}")
        with tarfile.open(out, "w:gz") as archive:
            archive.add(bundle, arcname=bundle.name)
    print(f"{out}: {os.path.getsize(out) / 1e6:.1f} MB, the program {size / 1e6:.1f} MB")
    print(f"there: tar xzf {pathlib.Path(out).name} && gpu-check/gpu-check --cuda-libs VENV")
    return 0


def assemble(bundle, program, tests, copy=strip):
    """Puts tool, program, tests and data into a folder."""
    (bundle / "bin").mkdir(parents=True)
    shutil.copy2(TOOLS / "gpu-check", bundle)
    shutil.copytree(TOOLS / "gpu_check", bundle / "gpu_check", ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    copy(program, bundle / "bin" / "verydeep")
    for name, test in tests.items():
        copy(test, bundle / "bin" / name)
    shutil.copytree(REPOSITORY / "examples" / "quickstart-data", bundle / "data")
