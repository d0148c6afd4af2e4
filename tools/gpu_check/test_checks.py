"""What gpu-check makes of a program: a stand-in that answers as the program does, and does one thing wrong on demand.

    python3 -m unittest discover -s tools -t tools -p 'test_*.py'
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from gpu_check.pack import assemble

TOOL = pathlib.Path(__file__).resolve().parents[1] / "gpu-check"

# Answers `doctor`, `train` and `bench` in the program's form. FAULT names what goes wrong.
PROGRAM = r'''
import json, os, pathlib, sys, time

fault = os.environ.get("FAULT", "")
words = sys.argv[1:]

def flag(name):
    return words[words.index(name) + 1] if name in words else None

def refuse(why):
    print("error: " + why, file=sys.stderr)
    sys.exit(2)

if "--precision" in words and flag("--precision") == "bf16":
    refuse("invalid value 'bf16' for '--precision'")
if words[0] == "doctor":
    ok = fault != "doctor"
    print(json.dumps({"ok": ok, "checks": [{"name": "cuda:0", "ok": ok, "detail": "a device"}]}))
    sys.exit(0 if ok else 4)
if words[0] == "train":
    if "--replicas" in words:
        refuse("--replicas: expected 1")
    run = pathlib.Path(flag("--run") or flag("--resume"))
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    for step in (1, 2):
        (run / "checkpoints" / f"step-{step}.safetensors").touch()
    loss = 2.0 * (1 + 1e-3 * (fault == "loss" and flag("--device") != "cpu"))
    with open(run / "log.jsonl", "w") as log:
        for step in (1, 2):
            log.write(json.dumps({"event": "step", "step": step, "loss": loss}) + "\n")
    other = {"second": run.name == "second", "graphs": "--cuda-graph" in words, "resume": "--resume" in words}
    print(json.dumps({"weights_sha256": ("b" if other.get(fault) else "a") * 64}))
elif words[:2] == ["bench", "layers"]:
    forward = {"flops": 4e10, "bytes": 1e9, "limit": "arithmetic"}
    layer = {"name": "conv1_1", "forward": 0.1, "backward": 0.2, "filter_gradient": 0.2}
    layer["parts"] = {"forward": forward, "data_gradient": None, "filter_gradient": {**forward, "limit": "memory"}}
    rates = {"peak_flops": 1e12, "peak_bandwidth": 1e10}
    print("no JSON" if fault == "layers" else json.dumps({"layers": [layer], **rates}))
else:
    time.sleep(5 if fault == "slow" else 0)
    if fault == "crash":
        os.abort()
    rates = {"images_per_sec": 10.0, "peak_flops": 1e12, "peak_bandwidth": 1e12}
    print(json.dumps({**rates, "fraction_of_peak": 0.5, "fraction_of_roofline": 0.6}))
'''

JUDGE = r"""
import os, sys
if os.environ.get("FAULT") == "judge":
    print("test some_layer ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored")
    sys.exit(101)
number = 0 if os.environ.get("FAULT") == "no tests" else 3
print(f"test result: ok. {number} passed; 0 failed; 0 ignored")
"""


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.script("verydeep", PROGRAM)
        self.judge = self.script("judge", JUDGE)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
        path.chmod(0o755)
        return path

    def check(self, fault="", *more):
        """Exit code, {check: status}, and the report."""
        out = self.folder / "out"
        command = [TOOL, "--simulated", "--program", self.program, "--judge", self.judge, "--data", self.folder]
        done = subprocess.run(
            [*command, "--out", out, *more],
            env={**os.environ, "FAULT": fault},
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        self.assertIn(done.stdout.strip(), (out / "table.txt").read_text(encoding="utf-8"))
        return done.returncode, {row["check"]: row["status"] for row in report["rows"]}, report

    def test_a_good_program_passes_and_what_it_refuses_is_said(self):
        code, rows, report = self.check()
        self.assertEqual(code, 0, rows)
        self.assertTrue(report["passed"])
        self.assertEqual(rows["exactness: a second run"], "ok")
        self.assertEqual(rows["exactness: 2 replicas"], "refused")
        self.assertEqual(rows["bench train D, tf32"], "ok")
        self.assertEqual(rows["bench train D, bf16"], "refused")
        self.assertEqual(rows["torchvision VGG-16"], "skipped")
        log = (self.folder / "out" / "log.txt").read_text(encoding="utf-8")
        self.assertIn("bench train --config D", log)
        self.assertIn("exit code 2", log)

    def test_passes_are_held_against_the_rate_that_bounds_them(self):
        _, _, report = self.check("", "--only", "layers")
        detail = report["rows"][0]["detail"]
        # 4e10 FLOP in 0.1 s of 1e12 a second; 1e9 bytes in 0.2 s of 1e10 a second.
        self.assertIn("bounded by products reach 40 % of the measured rate", detail)
        self.assertIn("bounded by memory 50 % of the measured copies", detail)

    def test_a_bundle_needs_nothing_but_itself(self):
        bundle = self.folder / "bundle"
        assemble(bundle, self.program, self.judge, shutil.copy2)
        out = self.folder / "out"
        environment = {**os.environ, "FAULT": "", "CARGO_TARGET_DIR": "/nonexistent"}
        done = subprocess.run(
            [bundle / "gpu-check", "--out", out], env=environment, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        statuses = {row["check"]: row["status"] for row in report["rows"]}
        self.assertEqual(statuses["layers against the CPU"], "ok")
        self.assertEqual(statuses["exactness: 4 replicas"], "refused")
        # Another time the folder holds a report, which is not overwritten.
        again = subprocess.run([bundle / "gpu-check", "--out", out], env=environment, capture_output=True, check=False)
        self.assertEqual(again.returncode, 2)

    def test_every_fault_ends_with_1_and_has_its_line(self):
        for fault, check, line in [
            ("doctor", "doctor", "doctor"),
            ("judge", "judge", "judge"),
            ("no tests", "judge", "judge"),
            ("second", "exactness", "exactness: a second run"),
            ("graphs", "exactness", "exactness: --cuda-graph"),
            ("resume", "exactness", "exactness: resumed after step 1"),
            ("loss", "against_the_cpu", "training against the CPU, fp32"),
            ("layers", "layers", "layers"),
            ("crash", "speed", "speed"),
        ]:
            with self.subTest(fault):
                self.setUp()
                code, rows, report = self.check(fault, "--only", check)
                self.assertEqual(code, 1, rows)
                self.assertFalse(report["passed"])
                self.assertEqual(rows[line], "FAILED", rows)
                self.assertEqual([check for check, status in rows.items() if status == "FAILED"], [line])

    def test_what_the_doctor_misses_is_named(self):
        _, _, report = self.check("doctor", "--only", "doctor")
        self.assertEqual(report["rows"][0]["detail"], "cuda:0: a device")

    def test_what_there_is_no_time_for_is_a_failure(self):
        code, rows, _ = self.check("slow", "--budget", "3", "--only", "speed")
        self.assertEqual(code, 1)
        self.assertEqual(rows["speed"], "no time", rows)

    def test_a_missing_program_is_a_failure(self):
        self.program.unlink()
        code, rows, _ = self.check()
        self.assertEqual(code, 1)
        self.assertEqual(rows["doctor"], "FAILED")


if __name__ == "__main__":
    unittest.main()
