"""The checks. Each is a generator of rows of the table over a `Bench`. What goes wrong with one measurement is its row:
what was measured before it, and can be measured after it, is in the table, too. What makes the rest of a check pointless
is raised."""

import dataclasses
import json
import re
import sys

from .runner import CommandFailed, OutOfTime, last_line, parse

PRECISIONS = ["fp32", "tf32", "bf16"]

# The loss of the first step against the CPU's, from the same state. fp32: the promise about whole networks. bf16: what
# the judge allows it against fp32 (BF16_AGAINST_FP32 of tests/common/ten_steps.rs), and tf32, which rounds less, too: the
# promises of both are per layer, by the judge.
LOSS_TOLERANCE = {"fp32": 1e-5, "tf32": 5e-2, "bf16": 5e-2}

# What ends a measurement but not the others: what the runner says, and what becomes of code that reads answers of
# another form than expected.
WRONG = (CommandFailed, OutOfTime, OSError, LookupError, ValueError, TypeError, ArithmeticError)


@dataclasses.dataclass
class Row:
    """One line of the table."""

    check: str
    # "ok", "FAILED", "skipped", "no time"
    status: str
    detail: str
    numbers: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Sizes:
    """How large the checks are: a GPU's, or small enough for the simulated device."""

    # Networks whose speed is measured: name and flags.
    networks: dict
    train_batch: int
    infer_batch: int
    steps: int
    layers_repeats: int
    # The network that is trained: flags of `train`.
    trained: list
    iterations: int
    # Tests of the judge by a part of their names, which say where they usually run.
    judged: dict
    # Tests of single kernels, likewise.
    kernels: dict
    # The network that is tuned, of `networks`; None: none is.
    tuned: object


GPU = Sizes(
    networks={"A": ["--config", "A"], "D": ["--config", "D"]},
    train_batch=64,
    infer_batch=64,
    steps=10,
    layers_repeats=3,
    trained="--config D --width 0.25 --crop 64 --scale 64 --fc 256 --batch 64 --micro-batch 16".split(),
    iterations=20,
    judged={
        "fp32": "cuda_on_the_simulated_device",
        "tf32": "cuda_in_tf32_on_the_simulated_device",
        "bf16": "cuda_in_bf16_on_the_simulated_device",
        "ten steps, fp32": "ten_steps_of_the_simulated_device_agree_with_the_cpu",
        "the bits of the CPU": "the_simulated_device_gives_the_bits_of_the_cpu",
    },
    kernels={"all": "on_the_simulated_device"},
    tuned="D",
)

SIMULATED = Sizes(
    networks={
        "A": "--config A --width 0.0625 --crop 32 --fc 16".split(),
        "D": "--config D --width 0.0625 --crop 32 --fc 16".split(),
    },
    train_batch=1,
    infer_batch=1,
    steps=1,
    layers_repeats=1,
    trained="--config A --width 0.0625 --crop 32 --scale 32 --fc 16 --batch 4 --micro-batch 2".split(),
    iterations=2,
    judged={"dropout, fp32": "cuda_on_the_simulated_device::dropout_draws"},
    kernels={"relu": "on_the_simulated_device::relu", "bytes": "on_the_simulated_device::kernels_move"},
    tuned=None,
)


@dataclasses.dataclass
class Bench:
    """What the checks run on."""

    runner: object
    sizes: Sizes
    # The binaries of tests/backend.rs and tests/kernels; None: there is none.
    judge: object
    kernels: object
    # Shards.
    data: object
    # A folder for runs and for what the checks find.
    folder: object
    simulated: bool
    # What the program measured, {(what, network, precision): report}: for the peer's ratio.
    measured: dict = dataclasses.field(default_factory=dict)

    def on_device(self):
        return ["--device", self.runner.device]


def went_wrong(check, why):
    """The row that says it."""
    if isinstance(why, OutOfTime):
        return Row(check, "no time", str(why))
    return Row(check, "FAILED", str(why) if isinstance(why, CommandFailed) else f"{type(why).__name__}: {why}")


def row_of(check, measure, *arguments):
    """The row of one measurement: the status, detail and numbers that it returns, or what goes wrong."""
    try:
        return Row(check, *measure(*arguments))
    except WRONG as why:
        return went_wrong(check, why)


def doctor(bench):
    """The device, its libraries, and a training step of a small network."""
    # With exit code 4 it says as JSON what is missing.
    _, out, err = bench.runner.run([bench.runner.program, "doctor", "--device", "cuda", "--full", "--json"])
    if not out:
        raise CommandFailed(last_line(err))
    said = parse(out)
    bad = [f"{check['name']}: {check['detail']}" for check in said["checks"] if not check["ok"]]
    if not said["ok"]:
        raise CommandFailed("; ".join(bad))
    device = next((c["detail"] for c in said["checks"] if c["name"] == bench.runner.device), "")
    yield Row("doctor --full", "ok", device)


def judge(bench):
    """Every layer, pass and small network against the f32 reference on the CPU; masks and inputs to the bit."""
    if bench.judge is None:
        yield Row("judge", "skipped", "no judge beside the program: pack a bundle, or say --judge")
        return
    yield from run_tests(bench, "judge", bench.judge, bench.sizes.judged)


def kernels(bench):
    """Every kernel alone against plain loops, to the bit, at any address."""
    if bench.kernels is None:
        yield Row("kernels", "skipped", "no tests of kernels beside the program: pack a bundle, or say --kernels")
        return
    yield from run_tests(bench, "kernels", bench.kernels, bench.sizes.kernels)


def run_tests(bench, check, binary, wanted):
    """A row for each part of the tests of a binary, and one for each test that says that it was skipped."""
    for what, name in wanted.items():
        row = row_of(f"{check}: {what}", tested, bench, binary, name)
        yield row
        for test, why in row.numbers.get("skipped", {}).items():
            yield Row(f"{check}: {test}", "skipped", why)


def tested(bench, binary, name):
    """The tests with this part in their names. That none has it is a failure: they were renamed."""
    where = {"VERYDEEP_TEST_DEVICE": bench.runner.device}
    code, out, err = bench.runner.run([binary, name], environment=where)
    found = re.search(r"test result: (\w+)\. (\d+) passed; (\d+) failed", out)
    if code != 0 or found is None or found[1] != "ok":
        failed = sorted(set(re.findall(r"^test (\S+) \.\.\. FAILED", out, re.MULTILINE)))
        raise CommandFailed(f"{name}: exit code {code}, failed: {', '.join(failed) or 'see the log'}")
    skipped = dict(re.findall(r"^skipped: (\w+): (.*)$", err, re.MULTILINE))
    passed = int(found[2]) - len(skipped)
    if passed + len(skipped) == 0:
        raise CommandFailed(f"no test is called {name}")
    return "ok", f"{passed} tests", {"passed": passed, "skipped": skipped}


def train(bench, name, *more, device=None):
    """Trains the small network; the `end` event."""
    flags = ["--data", bench.data, "--run", bench.folder / name, *bench.sizes.trained]
    flags += ["--schedule", "cosine", "--lr", "0.001", "--init", "he", "--quiet"]
    flags += ["--iterations", bench.sizes.iterations, "--device", device or bench.runner.device]
    return bench.runner.verydeep("train", *flags, *more)


def losses(bench, name):
    with open(bench.folder / name / "log.jsonl", encoding="utf-8") as log:
        events = [json.loads(line) for line in log]
    return [event["loss"] for event in events if event["event"] == "step"]


def exactness(bench):
    """The same weights to the bit in every precision: again, with graphs, killed and resumed; split over replicas."""
    for precision in PRECISIONS:
        yield from exactness_in(bench, precision)


def exactness_in(bench, precision):
    def run(name, *more):
        return train(bench, f"{precision}-{name}", "--precision", precision, *more)["weights_sha256"]

    def first():
        bits = run("first")
        return "ok", f"weights {bits[:12]}", {"weights_sha256": bits}

    def same(found):
        if found == bits:
            return "ok", f"weights {bits[:12]}"
        return "FAILED", f"weights {found[:12]}, expected {bits[:12]}"

    def again(name, *more):
        return same(run(name, *more))

    def resumed():
        # The schedule depends on the run's length, so the first half is stopped by hand: one checkpoint, then resume.
        run("resumed", "--checkpoint-every", half)
        folder = bench.folder / f"{precision}-resumed"
        for later in sorted((folder / "checkpoints").glob("step-*.safetensors"))[1:]:
            later.unlink()
        return same(bench.runner.verydeep("train", "--resume", folder, "--quiet")["weights_sha256"])

    check = f"exactness in {precision}"
    row = row_of(f"{check}: a first run", first)
    yield row
    if row.status != "ok":
        return  # nothing to compare with
    bits = row.numbers["weights_sha256"]
    half = max(1, bench.sizes.iterations // 2)
    yield row_of(f"{check}: a second run", again, "second")
    yield row_of(f"{check}: --cuda-graph", again, "graphs", "--cuda-graph")
    yield row_of(f"{check}: resumed after step {half}", resumed)
    if precision != "fp32":
        return  # how the batch is split has nothing to do with it
    for replicas in (2, 4):
        if replicas * int(bench.sizes.trained[-1]) > int(bench.sizes.trained[-3]):
            continue  # more replicas than micro-batches
        name = f"replicas-{replicas}"
        yield row_of(f"{check}: {replicas} replicas", again, name, "--replicas", replicas)


def against_the_cpu(bench):
    """A short training beside the same one on the CPU, losses step by step."""
    train(bench, "on-the-cpu", device="cpu")
    expected = losses(bench, "on-the-cpu")

    def measure(precision):
        train(bench, f"in-{precision}", "--precision", precision)
        found = losses(bench, f"in-{precision}")
        apart = [abs(f - e) / abs(e) for f, e in zip(found, expected, strict=True)]
        numbers = {"first_step": apart[0], "last_step": apart[-1], "losses": found, "cpu_losses": expected}
        detail = f"loss of step 1 within {apart[0]:.1e}, of step {len(apart)} within {apart[-1]:.1e}"
        # After the first step two trainings part, whoever computes them. NaN is within nothing.
        return "ok" if apart[0] <= LOSS_TOLERANCE[precision] else "FAILED", detail, numbers

    for precision in PRECISIONS:
        yield row_of(f"training against the CPU, {precision}", measure, precision)


def reached(said, limit, amount, peak):
    """What part of a measured rate the passes reach that are bounded by it, all together; None where there are none."""
    parts = [(layer, name) for layer in said["layers"] for name in layer.get("parts", {})]
    bounded = [(layer[name], layer["parts"][name]) for layer, name in parts if layer["parts"][name]]
    bounded = [(seconds, part) for seconds, part in bounded if part["limit"] == limit]
    seconds = sum(seconds for seconds, _ in bounded)
    return sum(part[amount] for _, part in bounded) / seconds / said[peak] if seconds else None


def layers(bench):
    """The time of every layer and pass of net D."""

    def measure(precision):
        sizes = ["--batch", min(32, bench.sizes.train_batch), "--repeats", bench.sizes.layers_repeats]
        flags = [*bench.sizes.networks["D"], *sizes, *bench.on_device(), "--precision", precision]
        said = bench.runner.verydeep("bench", "layers", *flags)
        forward = sum(layer["forward"] for layer in said["layers"])
        backward = sum(layer["backward"] or 0.0 for layer in said["layers"])
        slowest = max(said["layers"], key=lambda layer: layer["forward"] + (layer["backward"] or 0.0))
        detail = f"forward {1e3 * forward:.2f} ms, backward {1e3 * backward:.2f} ms, slowest {slowest['name']}"
        products = reached(said, "arithmetic", "flops", "peak_flops")
        copies = reached(said, "memory", "bytes", "peak_bandwidth")
        if products is not None:
            detail += f"; passes bounded by products reach {100 * products:.0f} % of the measured rate"
        if copies is not None:
            detail += f"; passes bounded by memory {100 * copies:.0f} % of the measured copies"
        return "ok", detail, said

    for precision in PRECISIONS:
        yield row_of(f"bench layers D, {precision}", measure, precision)


def steps(bench, what, name, precision, *more):
    """What `bench train` or `bench infer` says of a network, and that in words."""
    batch = bench.sizes.train_batch if what == "train" else bench.sizes.infer_batch
    sizes = ["--batch", batch, "--steps", bench.sizes.steps, "--precision", precision]
    said = bench.runner.verydeep("bench", what, *bench.sizes.networks[name], *sizes, *bench.on_device(), *more)
    detail = (
        f"{said['images_per_sec']:.1f} images/s; products {said['peak_flops'] / 1e12:.3g} TFLOP/s, copies "
        f"{said['peak_bandwidth'] / 1e9:.4g} GB/s; {100 * said['fraction_of_peak']:.0f} % of the products, "
        f"{100 * said['fraction_of_roofline']:.0f} % of the roofline"
    )
    return said, detail


def speed(bench):
    """Images per second of whole steps, and what part of the measured rates that is."""

    def measure(what, name, precision):
        said, detail = steps(bench, what, name, precision)
        bench.measured[what, name, precision] = said
        return "ok", detail, said

    for what in ("train", "infer"):
        for name in bench.sizes.networks:
            for precision in PRECISIONS:
                yield row_of(f"bench {what} {name}, {precision}", measure, what, name, precision)


def tuned(bench):
    """Training as `bench tune` says, beside the untuned of `speed`; left out where the budget does not allow it."""
    name, precision = bench.sizes.tuned, "bf16"
    if name is None:
        yield Row("bench tune", "skipped", "a simulated device has no speed to tune")
        return
    plans = bench.folder / "tuned.json"

    def tune():
        # Plans are for one size of micro-batch: that of `bench train`, a whole batch.
        flags = [*bench.sizes.networks[name], "--micro-batch", bench.sizes.train_batch, "--precision", precision]
        said = bench.runner.verydeep("bench", "tune", *flags, *bench.on_device(), "--out", plans)
        before, after = 1e3 * said["default_seconds"], 1e3 * said["fastest_seconds"]
        detail = f"{len(said['plans'])} plans; each once {before:.2f} ms by the default rule, {after:.2f} ms tuned"
        return "ok", detail, said

    def measure():
        said, detail = steps(bench, "train", name, precision, "--plans", plans)
        untuned = bench.measured.get(("train", name, precision))
        if untuned is None:
            return "ok", detail, said
        ratio = said["images_per_sec"] / untuned["images_per_sec"]
        return "ok", f"{ratio:.2f} of the untuned: {detail}", {**said, "ratio": ratio}

    both = {f"bench tune {name}, {precision}": tune, f"bench train {name}, {precision}, tuned": measure}
    for check, what in both.items():
        row = row_of(check, what)
        if row.status == "no time":
            row = dataclasses.replace(row, status="skipped", detail=f"the budget does not allow it: {row.detail}")
        yield row
        if row.status != "ok":
            return


def peer(bench):
    """torchvision's VGG-16 on the same device, in the same minutes."""
    check = "torchvision VGG-16"
    if bench.simulated:
        yield Row(check, "skipped", "a simulated device has no speed to compare")
        return
    script = [sys.executable, "-m", "gpu_check.peer", bench.runner.device, bench.sizes.train_batch, bench.sizes.steps]
    code, out, err = bench.runner.run(script)
    if code == 77:
        yield Row(check, "skipped", (err.strip().splitlines() or ["it does not say why"])[-1])
        return
    if code != 0:
        raise CommandFailed(f"exit code {code}: {(err.strip().splitlines() or ['it said nothing'])[-1]}")
    theirs = json.loads(out.splitlines()[-1])
    for what in ("train", "infer"):
        rate = theirs[what]
        ours = {p: bench.measured.get((what, "D", p)) for p in PRECISIONS}
        precision = "bf16" if ours["bf16"] else "tf32" if ours["tf32"] else "fp32"
        if ours[precision] is None:
            yield Row(f"{check}, {what}", "ok", f"{rate:.1f} images/s; nothing of ours beside it", theirs)
            continue
        ratio = ours[precision]["images_per_sec"] / rate
        detail = f"{rate:.1f} images/s in {theirs['how']}; ours in {precision} is {ratio:.2f} of it"
        yield Row(f"{check}, {what}", "ok", detail, {**theirs, "ours": precision, "ratio": ratio})


# In the order in which a person wants to know; last what may be left out for want of time.
ALL = [doctor, judge, kernels, exactness, against_the_cpu, layers, speed, peer, tuned]
