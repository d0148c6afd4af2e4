"""The checks. Each is a function of a `Bench` that returns rows of the table; what goes wrong is raised."""

import dataclasses
import json
import re
import sys

from .runner import CommandFailed, last_line, parse

PRECISIONS = ["fp32", "tf32", "bf16"]

# DESIGN section 9: the loss of CUDA in fp32 against the CPU, from the same state.
LOSS_TOLERANCE = 1e-5


@dataclasses.dataclass
class Row:
    """One line of the table."""

    check: str
    # "ok", "FAILED", "refused" (the program does not have it), "skipped", "no time"
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
    judged: list


GPU = Sizes(
    networks={"A": ["--config", "A"], "D": ["--config", "D"]},
    train_batch=64,
    infer_batch=64,
    steps=10,
    layers_repeats=3,
    trained="--config D --width 0.25 --crop 64 --scale 64 --fc 256 --batch 64 --micro-batch 16".split(),
    iterations=20,
    judged=["cuda_on_the_simulated_device", "the_simulated_device_gives_the_bits_of_the_cpu"],
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
    judged=["cuda_on_the_simulated_device::dropout_draws"],
)


@dataclasses.dataclass
class Bench:
    """What the checks run on."""

    runner: object
    sizes: Sizes
    # The test binary, or why there is none.
    judge: object
    # Shards.
    data: object
    # A folder for runs and for what the checks find.
    folder: object
    simulated: bool
    # What the program measured, {(what, network, precision): report}: for the peer's ratio.
    measured: dict = dataclasses.field(default_factory=dict)

    def on_device(self):
        return ["--device", self.runner.device]


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
    return [Row("doctor --full", "ok", device)]


def judge(bench):
    """Every layer, pass and small network against the f32 reference on the CPU; masks and inputs to the bit."""
    if bench.judge is None:
        return [Row("layers against the CPU", "skipped", "no judge beside the program: pack a bundle, or say --judge")]
    where = {} if bench.simulated else {"VERYDEEP_TEST_DEVICE": bench.runner.device}
    passed = 0
    for name in bench.sizes.judged:
        code, out, _ = bench.runner.run([bench.judge, name], environment=where)
        found = re.search(r"test result: (\w+)\. (\d+) passed; (\d+) failed", out)
        if code != 0 or found is None or found[1] != "ok":
            failed = sorted(set(re.findall(r"^test (\S+) \.\.\. FAILED", out, re.MULTILINE)))
            raise CommandFailed(f"{name}: exit code {code}, failed: {', '.join(failed) or 'see the log'}")
        passed += int(found[2])
    if passed == 0:
        raise CommandFailed(f"no test is called {' or '.join(bench.sizes.judged)}")
    return [Row("layers against the CPU", "ok", f"{passed} tests", {"passed": passed})]


def train(bench, name, *more, device=None):
    """Trains the small network; the `end` event, or None and why the program refuses."""
    flags = ["--data", bench.data, "--run", bench.folder / name, *bench.sizes.trained]
    flags += ["--schedule", "cosine", "--lr", "0.001", "--init", "he", "--quiet"]
    iterations = [] if "--iterations" in more else ["--iterations", bench.sizes.iterations]
    device = device or bench.runner.device
    return bench.runner.verydeep_or_refusal("train", *flags, "--device", device, *iterations, *more)


def losses(bench, name):
    with open(bench.folder / name / "log.jsonl", encoding="utf-8") as log:
        events = [json.loads(line) for line in log]
    return [event["loss"] for event in events if event["event"] == "step"]


def exactness(bench):
    """The same weights to the bit: again, with graphs, killed and resumed, split over replicas."""
    first, why = train(bench, "first")
    if first is None:
        raise CommandFailed(why)
    bits = first["weights_sha256"]
    rows = []

    def compare(what, end, refused):
        if end is None:
            rows.append(Row(f"exactness: {what}", "refused", refused))
        elif end["weights_sha256"] == bits:
            rows.append(Row(f"exactness: {what}", "ok", f"weights {bits[:12]}"))
        else:
            said = f"weights {end['weights_sha256'][:12]}, expected {bits[:12]}"
            rows.append(Row(f"exactness: {what}", "FAILED", said))

    compare("a second run", *train(bench, "second"))
    compare("--cuda-graph", *train(bench, "graphs", "--cuda-graph"))
    # The schedule depends on the run's length, so the first half is stopped by hand: one checkpoint, then resume.
    half = max(1, bench.sizes.iterations // 2)
    ended, why = train(bench, "resumed", "--checkpoint-every", half)
    if ended is not None:
        checkpoints = sorted((bench.folder / "resumed" / "checkpoints").glob("step-*.safetensors"))
        for later in checkpoints[1:]:
            later.unlink()
        run = bench.folder / "resumed"
        ended, why = bench.runner.verydeep_or_refusal("train", "--resume", run, "--quiet")
    compare(f"resumed after step {half}", ended, why)
    for replicas in (2, 4):
        if replicas * int(bench.sizes.trained[-1]) > int(bench.sizes.trained[-3]):
            continue  # more replicas than micro-batches
        compare(f"{replicas} replicas", *train(bench, f"replicas-{replicas}", "--replicas", replicas))
    return rows


def against_the_cpu(bench):
    """A short training beside the same one on the CPU, losses step by step."""
    rows = []
    ended, why = train(bench, "on-the-cpu", device="cpu")
    if ended is None:
        raise CommandFailed(why)
    expected = losses(bench, "on-the-cpu")
    for precision in PRECISIONS:
        ended, why = train(bench, f"in-{precision}", "--precision", precision)
        check = f"training against the CPU, {precision}"
        if ended is None:
            rows.append(Row(check, "refused", why))
            continue
        found = losses(bench, f"in-{precision}")
        apart = [abs(f - e) / abs(e) for f, e in zip(found, expected, strict=True)]
        numbers = {"first_step": apart[0], "last_step": apart[-1], "losses": found, "cpu_losses": expected}
        detail = f"loss of step 1 within {apart[0]:.1e}, of step {len(apart)} within {apart[-1]:.1e}"
        # Only fp32 has a promise about a whole network; the others' are per layer, by the judge.
        status = "FAILED" if precision == "fp32" and apart[0] > LOSS_TOLERANCE else "ok"
        rows.append(Row(check, status, detail, numbers))
    return rows


def reached(said, limit, amount, peak):
    """What part of a measured rate the passes reach that are bounded by it, all together; None where there are none."""
    parts = [(layer, name) for layer in said["layers"] for name in layer.get("parts", {})]
    bounded = [(layer[name], layer["parts"][name]) for layer, name in parts if layer["parts"][name]]
    bounded = [(seconds, part) for seconds, part in bounded if part["limit"] == limit]
    seconds = sum(seconds for seconds, _ in bounded)
    return sum(part[amount] for _, part in bounded) / seconds / said[peak] if seconds else None


def layers(bench):
    """The time of every layer and pass of net D."""
    rows = []
    flags = bench.sizes.networks["D"]
    for precision in PRECISIONS:
        check = f"bench layers D, {precision}"
        sizes = ["--batch", min(32, bench.sizes.train_batch), "--repeats", bench.sizes.layers_repeats]
        said, why = bench.runner.verydeep_or_refusal(
            "bench", "layers", *flags, *sizes, *bench.on_device(), "--precision", precision
        )
        if said is None:
            rows.append(Row(check, "refused", why))
            continue
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
        rows.append(Row(check, "ok", detail, said))
    return rows


def speed(bench):
    """Images per second of whole steps, and what part of the measured rates that is."""
    rows = []
    for what, batch in (("train", bench.sizes.train_batch), ("infer", bench.sizes.infer_batch)):
        for name, flags in bench.sizes.networks.items():
            for precision in PRECISIONS:
                check = f"bench {what} {name}, {precision}"
                sizes = ["--batch", batch, "--steps", bench.sizes.steps, "--precision", precision]
                said, why = bench.runner.verydeep_or_refusal("bench", what, *flags, *sizes, *bench.on_device())
                if said is None:
                    rows.append(Row(check, "refused", why))
                    continue
                bench.measured[what, name, precision] = said
                detail = (
                    f"{said['images_per_sec']:.1f} images/s; products {said['peak_flops'] / 1e12:.3g} TFLOP/s, copies "
                    f"{said['peak_bandwidth'] / 1e9:.4g} GB/s; {100 * said['fraction_of_peak']:.0f} % of the products, "
                    f"{100 * said['fraction_of_roofline']:.0f} % of the roofline"
                )
                rows.append(Row(check, "ok", detail, said))
    return rows


def peer(bench):
    """torchvision's VGG-16 on the same device, in the same minutes."""
    check = "torchvision VGG-16"
    if bench.simulated:
        return [Row(check, "skipped", "a simulated device has no speed to compare")]
    script = [sys.executable, "-m", "gpu_check.peer", bench.runner.device, bench.sizes.train_batch, bench.sizes.steps]
    code, out, err = bench.runner.run(script)
    if code == 77:
        return [Row(check, "skipped", (err.strip().splitlines() or ["it does not say why"])[-1])]
    if code != 0:
        raise CommandFailed(f"exit code {code}: {(err.strip().splitlines() or ['it said nothing'])[-1]}")
    theirs = json.loads(out.splitlines()[-1])
    rows = []
    for what in ("train", "infer"):
        rate = theirs[what]
        ours = {p: bench.measured.get((what, "D", p)) for p in PRECISIONS}
        precision = "bf16" if ours["bf16"] else "tf32" if ours["tf32"] else "fp32"
        if ours[precision] is None:
            rows.append(Row(f"{check}, {what}", "ok", f"{rate:.1f} images/s; nothing of ours beside it", theirs))
            continue
        ratio = ours[precision]["images_per_sec"] / rate
        detail = f"{rate:.1f} images/s in {theirs['how']}; ours in {precision} is {ratio:.2f} of it"
        rows.append(Row(f"{check}, {what}", "ok", detail, {**theirs, "ours": precision, "ratio": ratio}))
    return rows


# In the order in which a person wants to know.
ALL = [doctor, judge, exactness, against_the_cpu, layers, speed, peer]
