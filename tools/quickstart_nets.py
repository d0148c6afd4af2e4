"""The networks that tools/reproduce-quickstart trains, and how what a choice of evaluation changes is measured on them."""

import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tarfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Net(NamedTuple):
    """A network of the paper, and how it is trained here."""
    name: str  # as `reproduce` calls it
    config: str
    scale: str
    start: list  # the flag that says what it starts from, and the run
    tests: list  # smallest, middle, largest test scale, as `reproduce` takes them

    @property
    def run(self):
        return f"{self.config.lower()}-{self.scale}"


# Crop, S where the paper has 256 and 384, and the jittered one.
SIZES = "64,73,110,73..146"


def nets(sizes):
    """All of them, each after the one that it starts from."""
    crop, low, high, jitter = sizes.split(",")
    smallest, largest = map(int, jitter.split(".."))

    def tests(scale, papers):
        step = (32 * int(scale) + papers // 2) // papers
        return [max(int(crop), int(scale) + by) for by in (-step, 0, step)]

    yield Net("A/256", "A", low, [], tests(low, 256))
    for config in "DE":
        at_low = Net(f"{config}/256", config, low, ["--init-from", f"a-{low}"], tests(low, 256))
        at_high = Net(f"{config}/384", config, high, ["--weights", at_low.run], tests(high, 384))
        yield from (at_low, at_high)
        middle = (smallest + largest) // 2
        yield Net(f"{config}/256..512", config, jitter, ["--weights", at_high.run], [smallest, middle, largest])


class Sample(NamedTuple):
    """An image of the validation split."""
    file: bytes
    label: int


def validation_samples(data):
    """Of a shard folder, in its order."""
    info = json.loads((data / "_info.json").read_text())
    for name in info["splits"]["validation"]["filenames"]:
        with tarfile.open(data / name) as shard:
            members = {}
            for member in shard:
                key, _, extension = member.name.partition(".")
                members.setdefault(key, {})[extension] = shard.extractfile(member).read()
        for parts in members.values():
            label = int(parts.pop("cls"))
            (file,) = parts.values()
            yield Sample(file, label)


def judged(posteriors, label):
    """Error in percent with one guess, with five, and the cross-entropy, of one image's posteriors."""
    true = posteriors[label]
    # Among equals the lower index comes first.
    rank = sum(value > true or value == true and other < label for other, value in enumerate(posteriors))
    return 100 * (rank >= 1), 100 * (rank >= 5), -math.log(max(true, sys.float_info.min))


class Program:
    """The program, and what every call of it has in common."""

    def __init__(self, data, out):
        target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
        self.path = os.environ.get("VERYDEEP", f"{target}/release/verydeep")
        self.data, self.out = data, out
        if not os.access(self.path, os.X_OK):
            sys.exit(f"{self.path} is not there: cargo build --release")

    def call(self, *flags, **options):
        done = subprocess.run([self.path, *map(str, flags)], text=True, check=False, **options)
        if done.returncode != 0:
            said = " ".join(map(str, flags))
            print(f"verydeep {said}: exit {done.returncode}", file=sys.stderr)
            sys.exit(done.returncode)
        return done.stdout

    def run_of(self, net):
        """Its run folder."""
        return self.out / net.run

    def scored(self, net, protocol, scale, flip):
        """What `eval` finds for every validation image."""
        flags = ["--weights", self.run_of(net), "--protocol", protocol, "--scales", scale]
        name = f"{net.run}-{protocol}-{scale}" + "-flip" * flip
        return self.saved(name, [self.run_of(net) / "log.jsonl"], *flags, *["--flip"] * flip)

    def fused(self, name, *parts):
        """The mean of what was found before."""
        paths = [part.path for part in parts]
        return self.saved(name, paths, *(flag for path in paths for flag in ("--posteriors", path)))

    def saved(self, name, made_of, *flags):
        """Kept from an earlier call, unless a file that it was made of is newer."""
        path = self.out / "posteriors" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        changed = max(file.stat().st_mtime for file in made_of)
        if not path.exists() or path.stat().st_mtime < changed:
            self.call("eval", "--data", self.data, *flags, "--save-posteriors", path, stdout=subprocess.DEVNULL)
        return Scored(path)


class Scored:
    """A file of posteriors."""

    def __init__(self, path):
        self.path = path
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        self.header = json.loads(data[8:8 + length])
        self.data = data[8 + length:]

    def rows(self, average):
        """The posteriors of each image; `average` says what of a score map was averaged, scores or posteriors."""
        array = self.header[average]
        images, classes = array["shape"]
        values = struct.unpack_from(f"<{images * classes}f", self.data, array["data_offsets"][0])
        return [values[image * classes:(image + 1) * classes] for image in range(images)]

    def judged(self, labels, average="scores"):
        """[`quickstart_nets.judged`] of each image."""
        return [judged(row, label) for row, label in zip(self.rows(average), labels, strict=True)]


class Effect:
    """What a choice changes: what is found with it less what is found without it, on the same images."""

    HEADER = f"{'choice':<57} {'top-1 error':<24} {'top-5 error':<24} loss"

    def __init__(self, what):
        self.what = what
        self.networks = []  # for each: differences of every image, (top-1, top-5, loss)

    def add(self, without, with_it):
        """A network: how every image is [`judged`] without it and with it."""
        self.networks.append([[y - x for x, y in zip(*pair)] for pair in zip(without, with_it, strict=True)])

    def row(self):
        columns = []
        for column in range(3):
            each = [[image[column] for image in network] for network in self.networks]
            # Networks see the same images: their mean is one number an image, and those are independent.
            mean, error = mean_and_error([sum(image) / len(each) for image in zip(*each)])
            digits = 3 if column == 2 else 1
            span = [sum(network) / len(network) for network in each]
            spans = f"({min(span):+.{digits}f} .. {max(span):+.{digits}f})"
            columns.append(f"{mean:+.{digits}f} +- {error:.{digits}f} {spans}")
        return f"{self.what:<57} {columns[0]:<24} {columns[1]:<24} {columns[2]}"


def mean_and_error(values):
    """The mean, and its standard error."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
