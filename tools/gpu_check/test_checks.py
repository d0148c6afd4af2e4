"""What gpu-check makes of a program: a stand-in that answers as the program does, and does one thing wrong on demand.

    python3 -m unittest discover -s tools -t tools -p 'test_*.py'
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from gpu_check import checks, pack

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

# As after a flag was renamed.
if fault.startswith("--") and fault in words:
    refuse(f"unexpected argument '{fault}' found")
if fault == "bf16" and flag("--precision") == "bf16":
    refuse("invalid value 'bf16' for '--precision'")
if words[0] == "doctor":
    ok = fault != "doctor"
    print(json.dumps({"ok": ok, "checks": [{"name": "cuda:0", "ok": ok, "detail": "a device"}]}))
    sys.exit(0 if ok else 4)
if words[0] == "train":
    run = pathlib.Path(flag("--run") or flag("--resume"))
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    for step in (1, 2):
        (run / "checkpoints" / f"step-{step}.safetensors").touch()
    error = {"loss": 1e-3, "nan": float("nan") if flag("--precision") == "bf16" else 0.0}.get(fault, 0.0)
    loss = 2.0 * (1 + error * (flag("--device") != "cpu"))
    with open(run / "log.jsonl", "w") as log:
        for step in (1, 2):
            log.write(json.dumps({"event": "step", "step": step, "loss": loss}) + "\n")
    if fault == "first" and run.name == "fp32-first":
        os.abort()
    other = {
        "second": run.name == "fp32-second",
        "graphs": run.name == "bf16-graphs",
        "replicas": run.name == "fp32-replicas-2",
        "resume": "--resume" in words and run.name == "bf16-resumed",
    }
    print(json.dumps({"weights_sha256": ("b" if other.get(fault) else "a") * 64}))
elif words[:2] == ["bench", "layers"]:
    forward = {"flops": 4e10, "bytes": 1e9, "limit": "arithmetic"}
    layer = {"name": "conv1_1", "forward": 0.1, "backward": 0.2, "filter_gradient": 0.2}
    layer["parts"] = {"forward": forward, "data_gradient": None, "filter_gradient": {**forward, "limit": "memory"}}
    rates = {"peak_flops": 1e12, "peak_bandwidth": 1e10}
    wrong = fault == "layers" and flag("--precision") == "tf32"
    print("no JSON" if wrong else json.dumps({"layers": [layer], **rates}))
elif words[:2] == ["bench", "tune"]:
    time.sleep(60 if fault == "slow tuning" else 0)
    pathlib.Path(flag("--out")).write_text(flag("--micro-batch"))
    print(json.dumps({"plans": [{}, {}], "default_seconds": 0.2, "fastest_seconds": 0.1}))
else:
    time.sleep(60 if fault == "slow" and words[1] == "infer" else 0)
    if fault == "crash" and words[1] == "train" and flag("--config") == "D" and flag("--precision") == "tf32":
        os.abort()
    tuned = "--plans" in words
    if tuned and pathlib.Path(flag("--plans")).read_text() != flag("--batch"):
        refuse("--plans: made for another size")
    rates = {"images_per_sec": 15.0 if tuned else 10.0, "peak_flops": 1e12, "peak_bandwidth": 1e12}
    print(json.dumps({**rates, "fraction_of_peak": 0.5, "fraction_of_roofline": 0.6}))
'''

# Either of the test programs; FAULT names it.
TESTS = r"""
import os, pathlib, sys

fault, name = os.environ.get("FAULT"), pathlib.Path(sys.argv[0]).name
assert os.environ["VERYDEEP_TEST_DEVICE"] == "cuda:0"
if fault == name:
    print("test some_layer ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored")
    sys.exit(101)
if "kernels_move" in sys.argv[1]:
    print("skipped: kernels_move_what_they_state: nobody counts", file=sys.stderr)
number = 0 if fault == f"no {name}" else 1 if "kernels_move" in sys.argv[1] else 3
print(f"test result: ok. {number} passed; 0 failed; 0 ignored")
"""


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program = self.script("verydeep", PROGRAM)
        self.tests = {name: self.script(name, TESTS) for name in pack.TESTS}

    def script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
        path.chmod(0o755)
        return path

    def check(self, fault="", *more):
        """Exit code, {check: status}, and the report."""
        out = self.folder / "out"
        command = [TOOL, "--simulated", "--program", self.program, "--data", self.folder]
        command += [word for name, test in self.tests.items() for word in (f"--{name}", test)]
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

    def test_a_good_program_passes(self):
        code, rows, report = self.check()
        self.assertEqual(code, 0, rows)
        self.assertTrue(report["passed"])
        others = {check: status for check, status in rows.items() if status != "ok"}
        expected = {"kernels: kernels_move_what_they_state": "skipped"}
        self.assertEqual(others, {**expected, "torchvision VGG-16": "skipped", "bench tune": "skipped"})
        for precision in ("fp32", "tf32", "bf16"):
            for what in ("a first run", "a second run", "--cuda-graph", "resumed after step 1"):
                self.assertIn(f"exactness in {precision}: {what}", rows)
            self.assertIn(f"training against the CPU, {precision}", rows)
            self.assertIn(f"bench infer A, {precision}", rows)
        log = (self.folder / "out" / "log.txt").read_text(encoding="utf-8")
        self.assertIn("bench train --config D", log)

    def test_passes_are_held_against_the_rate_that_bounds_them(self):
        _, _, report = self.check("", "--only", "layers")
        detail = report["rows"][0]["detail"]
        # 4e10 FLOP in 0.1 s of 1e12 a second; 1e9 bytes in 0.2 s of 1e10 a second.
        self.assertIn("bounded by products reach 40 % of the measured rate", detail)
        self.assertIn("bounded by memory 50 % of the measured copies", detail)

    def test_a_bundle_needs_nothing_but_itself(self):
        bundle = self.folder / "bundle"
        pack.assemble(bundle, self.program, self.tests, shutil.copy2)
        out = self.folder / "out"
        environment = {**os.environ, "FAULT": "", "CARGO_TARGET_DIR": "/nonexistent"}
        done = subprocess.run(
            [bundle / "gpu-check", "--out", out], env=environment, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        statuses = {row["check"]: row["status"] for row in report["rows"]}
        self.assertEqual(statuses["judge: fp32"], "ok")
        self.assertEqual(statuses["judge: tf32"], "ok")
        self.assertEqual(statuses["judge: bf16"], "ok")
        self.assertEqual(statuses["kernels: all"], "ok")
        self.assertEqual(statuses["exactness in fp32: 4 replicas"], "ok")
        details = {row["check"]: row["detail"] for row in report["rows"]}
        times = "2 plans; each once 200.00 ms by the default rule, 100.00 ms tuned"
        self.assertEqual(details["bench tune D, bf16"], times)
        self.assertIn("1.50 of the untuned: 15.0 images/s", details["bench train D, bf16, tuned"])
        # Another time the folder holds a report, which is not overwritten.
        again = subprocess.run([bundle / "gpu-check", "--out", out], env=environment, capture_output=True, check=False)
        self.assertEqual(again.returncode, 2)

    def test_every_fault_ends_with_1_and_has_its_line_and_the_others_have_theirs(self):
        for fault, check, line, others in [
            ("doctor", "doctor", "doctor", 0),
            ("judge", "judge", "judge: dropout, fp32", 0),
            ("no judge", "judge", "judge: dropout, fp32", 0),
            # Without its first run a precision has nothing to compare: 5 rows of 13 are one.
            ("first", "exactness", "exactness in fp32: a first run", 8),
            ("second", "exactness", "exactness in fp32: a second run", 12),
            ("graphs", "exactness", "exactness in bf16: --cuda-graph", 12),
            ("resume", "exactness", "exactness in bf16: resumed after step 1", 12),
            ("--replicas", "exactness", "exactness in fp32: 2 replicas", 12),
            ("replicas", "exactness", "exactness in fp32: 2 replicas", 12),
            ("loss", "against_the_cpu", "training against the CPU, fp32", 2),
            ("nan", "against_the_cpu", "training against the CPU, bf16", 2),
            ("layers", "layers", "bench layers D, tf32", 2),
            ("crash", "speed", "bench train D, tf32", 11),
        ]:
            with self.subTest(fault):
                self.setUp()
                code, rows, report = self.check(fault, "--only", check)
                self.assertEqual(code, 1, rows)
                self.assertFalse(report["passed"])
                self.assertEqual(rows[line], "FAILED", rows)
                self.assertEqual([check for check, status in rows.items() if status == "FAILED"], [line])
                self.assertEqual(len(rows), others + 1, rows)

    def test_kernels_that_fail_or_are_not_there_are_failures(self):
        for fault in ("kernels", "no kernels"):
            with self.subTest(fault):
                self.setUp()
                code, rows, _ = self.check(fault, "--only", "kernels")
                self.assertEqual(code, 1)
                self.assertEqual(rows["kernels: relu"], "FAILED")

    def test_the_tests_of_kernels_are_those_of_the_bundle(self):
        source = (pack.REPOSITORY / "tests" / "kernels" / "main.rs").read_text(encoding="utf-8")
        (part,) = checks.GPU.kernels.values()
        self.assertIn(f"mod {part} {{", source)
        self.assertIn("fn kernels_move_what_they_state", source)
        self.assertIn("relu: elementwise::relu", source)

    def test_nothing_may_be_refused(self):
        code, rows, report = self.check("bf16", "--only", "exactness", "against_the_cpu", "layers", "speed")
        self.assertEqual(code, 1)
        for check, status in rows.items():
            self.assertEqual(status, "FAILED" if "bf16" in check else "ok", check)
        details = {row["check"]: row["detail"] for row in report["rows"]}
        why = "refused: error: invalid value 'bf16' for '--precision'"
        self.assertEqual(details["bench layers D, bf16"], why)
        self.assertEqual(details["exactness in bf16: a first run"], why)

    def test_a_renamed_flag_fails_all_that_need_it(self):
        for flag, check in (("--repeats", "layers"), ("--steps", "speed"), ("--schedule", "against_the_cpu")):
            with self.subTest(flag):
                self.setUp()
                code, rows, _ = self.check(flag, "--only", check)
                self.assertEqual(code, 1)
                self.assertEqual(set(rows.values()), {"FAILED"}, rows)

    def test_every_test_of_a_device_is_judged_on_the_gpu(self):
        source = (pack.REPOSITORY / "tests" / "backend.rs").read_text(encoding="utf-8")
        named = re.findall(r"^(?:judge!\(|mod |fn )(\w*simulated\w*)", source, re.MULTILINE)
        self.assertGreaterEqual(len(named), 4)
        filters = checks.GPU.judged.values()
        self.assertEqual([name for name in named if not any(part in name for part in filters)], [])
        self.assertEqual([part for part in filters if not any(part in name for name in named)], [])

    def test_what_the_doctor_misses_is_named(self):
        _, _, report = self.check("doctor", "--only", "doctor")
        self.assertEqual(report["rows"][0]["detail"], "cuda:0: a device")

    def test_what_there_is_no_time_for_is_a_failure_and_what_was_measured_stays(self):
        code, rows, _ = self.check("slow", "--budget", "6", "--only", "speed")
        self.assertEqual(code, 1)
        self.assertEqual(len(rows), 12)
        for check, status in rows.items():
            self.assertEqual(status, "ok" if "train" in check else "no time", rows)

    def test_tuning_is_left_out_where_there_is_no_time(self):
        out = self.folder / "out"
        bundle = self.folder / "bundle"
        pack.assemble(bundle, self.program, self.tests, shutil.copy2)
        done = subprocess.run(
            [bundle / "gpu-check", "--out", out, "--budget", "4", "--only", "doctor", "tuned"],
            env={**os.environ, "FAULT": "slow tuning"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("skipped  the budget does not allow it: no time left after", done.stdout)

    def test_a_missing_program_is_a_failure(self):
        self.program.unlink()
        code, rows, _ = self.check()
        self.assertEqual(code, 1)
        self.assertEqual(rows["doctor"], "FAILED")


if __name__ == "__main__":
    unittest.main()
