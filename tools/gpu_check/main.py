"""From flags to a table."""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import sys
import time

from . import checks, images
from .checks import Bench
from .pack import TESTS, pack
from .runner import Runner

TOOLS = pathlib.Path(__file__).resolve().parents[1]
BUDGET = 8 * 60  # seconds


def newest(paths):
    """The newest of the files that exist, or None."""
    files = [path for path in paths if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def find_program(simulated):
    """The bundle's, or cargo's newest; with `simulated`, of those that have the simulator beside them."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOOLS.parent / "target"))
    bundled = TOOLS / "bin" / "verydeep"
    if bundled.is_file():
        return bundled
    folders = [target / profile for profile in ("release", "debug")]
    folders = [folder for folder in folders if not simulated or (folder / "libcudasim.so").is_file()]
    return newest(folder / "verydeep" for folder in folders)


def find_test(program, bundled):
    """A test program, in the bundle or where cargo puts it."""
    beside = program.parent / bundled
    if beside.is_file():
        return beside
    found = [path for path in (program.parent / "deps").glob(f"{TESTS[bundled]}-*") if os.access(path, os.X_OK)]
    return newest(path for path in found if not path.suffix)


def find_data():
    for folder in (TOOLS / "data", TOOLS.parent / "examples" / "quickstart-data"):
        if folder.is_dir():
            return folder
    return None


def made_data(bench):
    """Shards of a few small images. No row, but where they cannot be made."""
    folder = bench.folder.parent
    images.make(folder / "images")
    bench.runner.verydeep("pack", "--images", folder / "images", "--out", folder / "shards")
    bench.data = folder / "shards"
    yield from ()


def run_checks(bench, all_checks):
    """Rows of every check, said as they come; what is raised becomes a row behind those that the check has."""
    rows = []

    def add(row):
        print(f"gpu-check: {row.check}: {row.status}: {row.detail}", file=sys.stderr, flush=True)
        rows.append(row)

    for check in all_checks:
        started = time.monotonic()
        try:
            for row in check(bench):
                add(row)
        except checks.WRONG as why:
            add(checks.went_wrong(check.__name__.replace("_", " "), why))
        print(f"gpu-check: {check.__name__}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return rows


def passed(rows):
    """Whether nothing failed and nothing is missing."""
    return bool(rows) and all(row.status in ("ok", "skipped") for row in rows)


def table(rows):
    width = max(len(row.check) for row in rows)
    lines = [f"{'check':{width}}  {'':8} detail"]
    lines += [f"{row.check:{width}}  {row.status:8} {row.detail}" for row in rows]
    return "\n".join(lines)


def parse(description):
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0", help="the device (default cuda:0)")
    parser.add_argument("--cuda-libs", metavar="DIR", help="where NVIDIA's libraries are, as the program takes it")
    parser.add_argument("--out", metavar="FOLDER", type=pathlib.Path, help="where report, log and table go")
    parser.add_argument("--budget", metavar="SECONDS", type=float, default=BUDGET, help="time for all checks")
    names = [check.__name__ for check in checks.ALL]
    parser.add_argument("--only", nargs="+", choices=names, metavar="CHECK", help=f"some of {', '.join(names)}")
    parser.add_argument("--program", type=pathlib.Path, help="the program (default: the bundle's, or target's)")
    parser.add_argument("--judge", type=pathlib.Path, help="the binary of tests/backend.rs (default: as above)")
    parser.add_argument("--kernels", type=pathlib.Path, help="the binary of tests/kernels (default: as above)")
    parser.add_argument("--data", type=pathlib.Path, help="a shard folder (default: the quick start's; with --simulated a few small images)")
    parser.add_argument("--simulated", action="store_true", help="tiny sizes on the simulated device")
    parser.add_argument("--pack", metavar="BUNDLE.tar.gz", help="build and pack the bundle")
    return parser.parse_args()


def main(description):
    arguments = parse(description)
    if arguments.pack:
        return pack(arguments.pack)
    program = arguments.program or find_program(arguments.simulated)
    data = arguments.data or find_data()
    if program is None or (data is None and not arguments.simulated):
        missing = "program" if program is None else "data"
        build = "cargo build --workspace" if arguments.simulated else "cargo build --release"
        print(f"gpu-check: no {missing} here: build the program ({build}), or say --{missing}", file=sys.stderr)
        return 2
    environment = {"PYTHONPATH": str(TOOLS)}
    if arguments.simulated:
        environment["VERYDEEP_SIMULATE_CUDA"] = "1"
    if arguments.cuda_libs:
        environment["VERYDEEP_CUDA_LIBS"] = arguments.cuda_libs
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    out = arguments.out or pathlib.Path(f"gpu-check-{stamp}")
    if out.exists() and any(out.iterdir()):
        print(f"gpu-check: --out: expected a new or empty folder, found files in {out}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(out / "log.txt", "w", encoding="utf-8"))
        runs = out / "runs"
        runs.mkdir()
        runner = Runner(program, arguments.device, environment, arguments.budget, log)
        bench = Bench(
            runner=runner,
            sizes=checks.SIMULATED if arguments.simulated else checks.GPU,
            judge=arguments.judge or find_test(program, "judge"),
            kernels=arguments.kernels or find_test(program, "kernels"),
            data=data,
            folder=runs,
            simulated=arguments.simulated,
        )
        wanted = [check for check in checks.ALL if arguments.only is None or check.__name__ in arguments.only]
        if arguments.simulated and not arguments.data:
            wanted.insert(0, made_data)
        rows = run_checks(bench, wanted)
    seconds = time.monotonic() - started
    good = passed(rows)
    verdict = "passed" if good else "FAILED"
    simulated = " on the simulated device, which shows nothing about a GPU" if arguments.simulated else ""
    text = f"{table(rows)}\n{verdict} after {seconds:.0f} s{simulated}"
    print(text)
    (out / "table.txt").write_text(text + "\n", encoding="utf-8")
    report = {
        "passed": good,
        "simulated": arguments.simulated,
        "date": stamp,
        "machine": platform.platform(),
        "device": arguments.device,
        "seconds": seconds,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"gpu-check: report, log and table are in {out}", file=sys.stderr)
    return 0 if good else 1
