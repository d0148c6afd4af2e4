"""Lets the real cuDNN plan every convolution of networks A to E, with no GPU and no driver: every pass of training, and
the forward pass of dense evaluation on single images of several sizes.

examples/cudnn_plans.rs asks it through the program's own layer over cuDNN, for each device of devices/*.json (its
properties, as cuDNN's deviceless compilation reads them) in each precision. Fails where a convolution has no plan that
is deterministic, keeps to the precision and to the workspace cap, where a plan is not found again by its engine and knobs
(as plan files name it), or where the filter of fp32 lets through what it must not: an engine that uses tensor cores. Run
by tools/cuda-gates.

What this shows: cuDNN accepts our graphs and has engines for them that keep our promises. What it cannot show: that they
compute the right thing, and how fast.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PRECISIONS = ["fp32", "tf32", "bf16"]
PASSES = ["forward", "data gradient", "filter gradient", "dense forward"]
MICRO_BATCH = 32
WORKSPACE_CAP = 256 << 20


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        sys.exit(f"cuda-gates: {' '.join(map(str, command))}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def plans(program, libraries, driver, device, precision):
    """What cuDNN makes of every pass of every convolution."""
    environment = dict(os.environ, LD_LIBRARY_PATH=str(driver))
    environment.pop("VERYDEEP_SIMULATE_CUDA", None)
    lines = run([program, libraries, device, precision, str(MICRO_BATCH)], env=environment).splitlines()
    found = [json.loads(line) for line in lines]
    for planned in found:
        if planned.pop("dense", False):
            planned["pass"] = f"dense {planned['pass']}"
    return found


def key(planned):
    return (planned["pass"], *planned["shape"])


def failures_of(device, found):
    """What is wrong with one device's plans, {precision: [planned]}."""
    failures = []
    for precision, all_planned in found.items():
        for planned in all_planned:
            where = f"{device} {precision} {planned['pass']} of {planned['layer']} {planned['shape']}"
            chosen = planned["chosen"]
            if chosen is None:
                failures.append(f"{where}: no plan: {'; '.join(planned['refused'])}")
            elif chosen["workspace"] > WORKSPACE_CAP:
                failures.append(f"{where}: {chosen['workspace']} bytes of workspace")
            elif not chosen["found_again"]:
                failures.append(f"{where}: engine {chosen['engine']}, knobs {chosen['knobs']}: not found again")
    if not any(p["chosen"] and p["chosen"]["knobs"] for all_planned in found.values() for p in all_planned):
        failures.append(f"{device}: no plan has a knob: they are not read")
    # On f32 tensors the engines are the same; what fp32 must refuse is what tf32 may take.
    eligible = {precision: {key(p): p["eligible"] for p in found[precision]} for precision in ("fp32", "tf32")}
    for convolution, count in eligible["fp32"].items():
        if count >= eligible["tf32"][convolution]:
            failures.append(f"{device} fp32 {convolution}: the filter removes no engine that tf32 may take")
    return failures


def span(values):
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def print_table(table):
    head = ["device", "precision", "pass", "graphs", "offered", "eligible", "engines", "workspace", "fallbacks"]
    print("{:8} {:9} {:16} {:>6} {:>8} {:>8} {:>12} {:>10} {:>9}".format(*head))
    for device, by_precision in table.items():
        for precision, all_planned in by_precision.items():
            for name in PASSES:
                some = [planned for planned in all_planned if planned["pass"] == name]
                chosen = [planned["chosen"] for planned in some if planned["chosen"]]
                engines = ",".join(map(str, sorted({c["engine"] for c in chosen})))
                workspace = max((c["workspace"] for c in chosen), default=0) / (1 << 20)
                late = sum(c["rank"] > 0 for c in chosen)
                print(
                    f"{device:8} {precision:9} {name:16} {len(some):>6} {span([p['offered'] for p in some]):>8} "
                    f"{span([p['eligible'] for p in some]):>8} {engines:>12} {workspace:>6.0f} MiB {late:>9}"
                )


def main():
    parser = argparse.ArgumentParser(prog="tools/cuda-gates cudnn")
    parser.add_argument("--json", action="store_true", help="every plan as JSON")
    arguments = parser.parse_args()
    run(["cargo", "build", "--quiet", "--example", "cudnn_plans"], cwd=REPOSITORY)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    program = target / "debug" / "examples" / "cudnn_plans"
    table, failures = {}, []
    with tempfile.TemporaryDirectory() as folder:
        driver = pathlib.Path(folder) / "libcuda.so.1"
        source = HERE / "stub_driver.c"
        run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", driver, source])
        for device in sorted((HERE / "devices").glob("*.json")):
            found = {
                precision: plans(program, sys.prefix, folder, device, precision) for precision in PRECISIONS
            }
            table[device.stem] = found
            failures += failures_of(device.stem, found)
    graphs = sum(len(found) for by_precision in table.values() for found in by_precision.values())
    if arguments.json:
        print(json.dumps({"devices": table, "failures": failures, "passed": not failures}, indent=1))
    else:
        print_table(table)
        print(f"{graphs} graphs: {'FAILED' if failures else 'passed'}")
    for failure in failures:
        print(f"cuda-gates: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
