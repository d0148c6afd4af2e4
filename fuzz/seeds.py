#!/usr/bin/env python3
"""Writes corpus/: a few small inputs for every fuzz target, the same bytes every time.

  python3 fuzz/seeds.py       (images need Pillow 13; without it those that are there stay)

Everything is made up here: random numbers, coloured noise, and formats as their own tools write them. Licence of the
corpus: as the repository's, MIT or Apache-2.0.
"""

import hashlib
import io
import json
import pathlib
import random
import struct
import tarfile
import zipfile

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
DRAW = random.Random(7)

# Net A, one channel in its first convolution, images of 32 pixels, 2 outputs of fc6 and fc7, 3 classes.
CHANNELS = [(0, 1, 3), (3, 2, 1), (6, 4, 2), (8, 4, 4), (11, 8, 4), (13, 8, 8), (16, 8, 8), (18, 8, 8)]
LINEAR = [(0, 2, 8), (3, 2, 2), (6, 3, 2)]


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def arrays(channels):
    """Name and shape of every array."""
    found = []
    for module, outputs, inputs in channels:
        found += [(f"features.{module}.weight", [outputs, inputs, 3, 3]), (f"features.{module}.bias", [outputs])]
    for module, outputs, inputs in LINEAR:
        inputs = channels[-1][1] if module == 0 else inputs
        found += [(f"classifier.{module}.weight", [outputs, inputs]), (f"classifier.{module}.bias", [outputs])]
    return found


def count(dims):
    product = 1
    for side in dims:
        product *= side
    return product


def numbers(dims, kind="f"):
    return struct.pack(f"<{count(dims)}{kind}", *(DRAW.uniform(-1, 1) for _ in range(count(dims))))


# --- shards


def tar(members, **how):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **how) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o444
            archive.addfile(member, io.BytesIO(content))
    end = len(file.getvalue().rstrip(b"\0"))
    return file.getvalue()[: (end + 511) // 512 * 512 + 1024]


def base256(archive):
    """The size of the first member as GNU tar writes sizes above 8 GB."""
    header = bytearray(archive[:512])
    header[124:136] = b"\x80" + int(bytes(header[124:135]), 8).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]


def shards():
    members = [("a.cls", b"0"), ("a.jpg", b"an image"), ("b.cls", b"1"), ("b.jpg", b"another")]
    ustar = tar(members, format=tarfile.USTAR_FORMAT)
    write("tar", "ustar.tar", ustar)
    long = [("folder/" + "n" * 120 + ".jpg", b"x" * 600)]
    write("tar", "pax.tar", tar(long, format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}))
    write("tar", "gnu.tar", tar(long, format=tarfile.GNU_FORMAT))
    write("tar", "prefix.tar", tar([("p" * 90 + "/a.jpg", b"x")], format=tarfile.USTAR_FORMAT))
    write("tar", "base256.tar", base256(ustar[:3072]))
    index = "v1.2 2\ncls 512 1 a.cls jpg 1536 8 a.jpg\ncls 2560 1 b.cls jpg 3584 7 b.jpg\n"
    write("idx", "whole.idx", index.encode())
    write("idx", "one.idx", b"v1.2 1\njpg 1536 8 a.jpg\n")
    write("idx", "stale.idx", b"v1.2 1\npng 1024 99999 a/b.c.png\n")
    shard = {"file": "x-train-0000.tar", "split": "train", "samples": 2, "bytes": 5120, "sha256": "ab", "labels": "0 1"}
    vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    note = {"source": "a.jpg", "key": "a", "reason": "CMYK"}
    manifest = {
        "format": "verydeep shards 1",
        "name": "x",
        "classes": ["cat", "dog"],
        "mean_rgb": [120.5, 0.25, 255.0],
        "pca_rgb": {"eigenvalues": [0.2, 0.02, 0.005], "eigenvectors": vectors},
        "images": "original",
        "seed": 1,
        "shards": [shard],
        "renamed": [],
        "odd": [note],
        "left_out": [],
    }
    write("manifest", "small.json", json.dumps(manifest).encode())
    with_crcs = manifest | {"shards": [shard | {"crc32": "0123abcd00000007"}], "left_out": [note]}
    write("manifest", "crc32.json", json.dumps(with_crcs).encode())
    manifest |= {"images": {"reencoded": {"max_short": 512, "quality": 90}}, "shards": [], "odd": []}
    write("manifest", "empty.json", json.dumps(manifest).encode())


# --- images


def images():
    try:
        from PIL import Image
    except ImportError:
        print("no Pillow: images are left as they are")
        return
    for name, mode, size, how in [
        ("420.jpg", "RGB", (33, 19), {"subsampling": 2}),
        ("444.jpg", "RGB", (17, 9), {"subsampling": 0}),
        ("422.jpg", "RGB", (40, 8), {"subsampling": 1}),
        ("progressive.jpg", "RGB", (24, 24), {"progressive": True}),
        ("grey.jpg", "L", (16, 16), {}),
        ("cmyk.jpg", "CMYK", (9, 9), {}),
        ("restart.jpg", "RGB", (48, 16), {"restart_marker_blocks": 1}),
    ]:
        noise = DRAW.randbytes(len(mode) * size[0] * size[1])
        file = io.BytesIO()
        Image.frombytes(mode, size, noise).save(file, "JPEG", quality=40, **how)
        write("jpeg", name, file.getvalue() + struct.pack("<4H", 3, 2, 8, 5))
    file = io.BytesIO()
    Image.frombytes("P", (7, 5), DRAW.randbytes(35)).save(file, "PNG")
    write("jpeg", "palette.png", file.getvalue() + struct.pack("<4H", 3, 2, 8, 5))
    turned = Image.Exif()
    turned[0x0112] = 6
    # Numbers of their own, so that what follows stays as it is.
    draw = random.Random(8)
    for name, kind, size, how in [
        ("turned.jpg", "JPEG", (24, 10), {"quality": 40, "exif": turned}),
        ("lossy.webp", "WEBP", (17, 9), {"quality": 40, "exif": turned}),
        ("lossless.webp", "WEBP", (9, 7), {"lossless": True}),
        ("animated.gif", "GIF", (8, 6), {"save_all": True, "interlace": True}),
    ]:
        image = Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1]))
        if kind == "GIF":
            image = image.quantize(8)
            how["append_images"] = [image.transpose(Image.Transpose.ROTATE_180)]
        file = io.BytesIO()
        image.save(file, kind, **how)
        write("jpeg", name, file.getvalue() + struct.pack("<4H", 3, 2, 4, 5))


# --- runs

PREPROCESS = {
    "channels": "rgb",
    "scale": [1.0, 1.0, 1.0],
    "shift": [-120.0, -110.0, -100.0],
    "long_side": "floor",
    "filter": "bilinear-antialiased",
    "centre_crop": "floor",
}
SPEC = {"config": "A", "batch_norm": False, "classes": 3, "crop": 32, "width": 0.001, "fc": 2, "dropout": 0.5}


def safetensors(named, metadata=None, kind="F32"):
    """`named` are (name, shape, bytes)."""
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, dims, data in named:
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text.encode() + b"".join(data for _, _, data in named)


def hashed(key, value):
    text = json.dumps(value, separators=(",", ":"))
    return {key + "_sha256": hashlib.sha256(text.encode()).hexdigest(), key: text}


def checkpoints():
    thin = [(module, 1, 3 if module == 0 else 1) for module, _, _ in CHANNELS]
    weights = [(name, dims, numbers(dims)) for name, dims in arrays(thin)]
    momentum = [("momentum." + name, dims, numbers(dims)) for name, dims in arrays(thin)]
    schedule = {"lr": 0.01, "drops": 0}
    state = hashlib.sha256(b"".join(data for _, _, data in weights))
    sha = state.hexdigest()
    state.update(b"".join(data for _, _, data in momentum))
    state.update(struct.pack("<Q", 12) + json.dumps(schedule, separators=(",", ":")).encode())
    about = {"spec": SPEC, "class_names": ["a", "b", "c"], "preprocess": PREPROCESS, "scale": 36, "weights_sha256": sha}
    write("checkpoint", "weights.safetensors", safetensors(weights, hashed("verydeep_weights", about)))
    meta = {
        **{key: about[key] for key in ("spec", "class_names", "preprocess", "scale")},
        "step": 12,
        "epoch": 1.5,
        "schedule": schedule,
        "recipe": {"lr": 0.01},
        "class": {"version": "0.1.0"},
        "weights_sha256": sha,
        "state_sha256": state.hexdigest(),
    }
    write("checkpoint", "step.safetensors", safetensors(weights + momentum, hashed("verydeep", meta)))
    write("checkpoint", "plain.safetensors", safetensors([("x", [2, 2], numbers([2, 2]))]))


RECIPE = """data = "shards"
config = "A"
batch-norm = false
crop = 32
scale = "36..48"
width = 0.25
fc = 64
dropout = 0.5
init = "glorot"
batch = 16
micro-batch = 8
epochs = 3
lr = 0.01
schedule = "plateau"
plateau-patience = 5
plateau-drops = 3
momentum = 0.9
weight-decay = 0.0005
bias-decay = 1.0
bias-lr = 1.0
seed = 1
no-augment = false
checkpoint-every = 10
folds = false
on-bad = "skip"
device = "cpu"
replicas = 2
precision = "fp32"
conv-algo = "auto"
threads = 2
io = "mmap"
"""


def runs():
    write("recipe", "plateau.toml", RECIPE.encode())
    other = RECIPE.replace('"plateau"', '"step:30,0.1"').replace('"glorot"', '"normal:0.01"').replace('"mmap"', '"pread"')
    write("recipe", "step.toml", other.replace("epochs = 3", "iterations = 100").encode())
    devices = RECIPE.replace('"cpu"', '"cuda:0-1"').replace('"fp32"', '"bf16"')
    devices += 'max-bad = "0.1%"\nexif = "apply"\nvalidate-every = 5\naudit-every = 100\nstop-if-stuck = 2\nreduce = "nccl"\n'
    write("recipe", "devices.toml", devices.encode())
    sha = "ab" * 32
    bad = {"shard": "x-train-0000.tar", "offset": 1536, "key": "a", "reason": "cut short", "action": "replaced"}
    events = [
        {"event": "start", "recipe": {}, "class": {}, "step": 0, "total_steps": 9, "samples": 4, "version": "0.1.0"},
        {"event": "step", "step": 1, "epoch": 0.5, "loss": 1.1, "lr": 0.01, "images_per_sec": 99.5, "data_stall": 0.0},
        {"event": "bad_sample", "step": 2, **bad},
        {"event": "step", "step": 2, "epoch": 1, "loss": None, "lr": 0.01, "images_per_sec": 99.5, "data_stall": 0.0},
        {"event": "folds", "step": 2, "folds": [{"micro_batch": 0, "layer": "fc6", "pass": "forward", "fold": "00ff"}]},
        {"event": "validation", "step": 2, "top1_error": 50, "top5_error": 0, "top1": 50, "top5": 100, "loss": 1.0, "n": 4}
        | {"weights_sha256": sha, "seconds": 0.1},
        {"event": "checkpoint", "step": 2, "file": "checkpoints/step-000000002.safetensors", "seconds": 0.1}
        | {"weights_sha256": sha, "state_sha256": sha},
        {"event": "warning", "step": 3, "message": "slow"},
        {"event": "end", "step": 3, "reason": "finished", "weights_sha256": sha, "state_sha256": sha, "exit": 0}
        | {"images_per_sec": 9.5, "top1": 50.0, "top5": None},
    ]
    lines = [json.dumps({"time": 1700000000.25} | event) + "\n" for event in events]
    write("log", "whole.jsonl", "".join(lines).encode())
    write("log", "torn.jsonl", "".join(lines[1:4])[:-9].encode())
    write("log", "end.jsonl", "".join(lines[-2:]).encode())


# --- other programs' weights


def pickled(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def pth(named, kind, size):
    """A state dictionary as torch.save writes it, a storage for each array."""
    pickle = b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\1("
    for key, (name, dims, _) in enumerate(named):
        strides = [count(dims[i + 1 :]) for i in range(len(dims))]
        sizes = [b"(" + b"".join(b"K" + bytes([n]) if n < 256 else b"M" + struct.pack("<H", n) for n in of) + b"t"
                 for of in (dims, strides)]
        pickle += pickled(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage")
        pickle += b"ctorch\n" + kind + b"Storage\n" + pickled(str(key)) + pickled("cpu")
        pickle += b"J" + struct.pack("<I", count(dims)) + b"tQK\0" + sizes[0] + sizes[1] + b"\x89h\0)RtR"
    pickle += b"u."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in [("data.pkl", pickle), ("byteorder", b"little")]:
            archive.writestr(zipfile.ZipInfo("net/" + name), content)
        for key, (_, _, data) in enumerate(named):
            archive.writestr(zipfile.ZipInfo(f"net/data/{key}"), data)
    return file.getvalue()


def varint(value):
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes(digits + bytes([value]))


def field(number, value):
    """One field of a protocol buffer: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def caffe(named, older):
    """Layers of the current form (100), or of the older one (2) with its four sides."""
    net = field(1, "net")
    for (name, dims, data), (_, biases, bias) in zip(named[::2], named[1::2]):
        layer = b""
        for sides, values in ((dims, data), (biases, bias)):
            if older:
                sides = [1] * (4 - len(sides)) + sides
                shape = b"".join(field(i + 1, side) for i, side in enumerate(sides))
            else:
                shape = field(7, field(1, b"".join(varint(side) for side in sides)))
            layer += field(6 if older else 7, shape + field(5, values))
        is_conv = len(dims) == 4
        kind = (4 if is_conv else 14) if older else ("Convolution" if is_conv else "InnerProduct")
        net += field(2 if older else 100, field(4 if older else 1, name) + field(5 if older else 2, kind) + layer)
    return net


def onnx(named):
    """The chain of a VGG network, weights in half precision."""

    def node(kind, inputs, output, *attributes):
        text = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
        return field(1, text + b"".join(field(5, attribute) for attribute in attributes))

    def ints(name, values):
        return field(1, name) + b"".join(field(8, value) for value in values)

    pools = {0, 3, 8, 13, 18}
    graph, value = b"", "image"
    for (name, dims, _), (bias, _, _) in zip(named[::2], named[1::2]):
        if len(dims) == 4:
            graph += node("Conv", [value, name, bias], name + "y", ints("kernel_shape", [3, 3]), ints("pads", [1] * 4))
            graph += node("Relu", [name + "y"], value := name + "r")
            if int(name.split(".")[1]) in pools:
                pool = [ints("kernel_shape", [2, 2]), ints("strides", [2, 2])]
                graph += node("MaxPool", [value], value := name + "p", *pool)
        else:
            if name.startswith("classifier.0"):
                graph += node("Flatten", [value], value := "flat")
            graph += node("Gemm", [value, name, bias], value := name + "y", field(1, "transB") + field(3, 1))
            if not name.startswith("classifier.6"):
                graph += node("Relu", [value], value := name + "r")
    for name, dims, data in named:
        graph += field(5, b"".join(field(1, side) for side in dims) + field(2, 10) + field(8, name) + field(9, data))
    return field(1, 8) + field(7, graph + field(11, field(1, "image")) + field(12, field(1, value)))


def weights():
    half = [(name, dims, numbers(dims, "e")) for name, dims in arrays(CHANNELS)]
    full = [(name, dims, numbers(dims)) for name, dims in arrays(CHANNELS)]
    ends = [half[0], half[1], half[-2], half[-1]]
    write("safetensors", "half.safetensors", safetensors(half, {"format": "pt"}, "F16"))
    write("safetensors", "ends.safetensors", safetensors(ends, None, "BF16"))
    write("pth", "half.pth", pth(half, b"Half", 2))
    write("pth", "ends.pth", pth(ends, b"BFloat16", 2))
    write("caffemodel", "current.caffemodel", caffe(full, False))
    write("caffemodel", "older.caffemodel", caffe(full[:2] + full[-2:], True))
    write("onnx", "half.onnx", onnx(half))
    write("onnx", "ends.onnx", onnx(ends))


# --- the control link


def wire():
    def frames(*messages):
        texts = [json.dumps(message, separators=(",", ":")).encode() for message in messages]
        token = 0x0123456789ABCDEF
        return b"".join(b"VDC1" + struct.pack("<QI", token, len(text)) + text for text in texts)

    progress = {"step": 3, "collectives": 9, "collective": "reduce bucket 3"}
    hello = {"rank": 1, "size": 2, "local_rank": 1, "host": "a", "pid": 7, "version": "0.1.0", "class": {"seed": 1}}
    hello |= {"allow_drift": False, "devices": ["GPU-1"], "blob": ""}
    peer = {"host": "a", "pid": 7, "local_rank": 0, "devices": []}
    write("wire", "member.bin", frames({"Hello": hello}, {"Beat": progress}, {"Begin": {"step": 4}}, {"Leave": {"exit": 0}}))
    give = {"sequence": 0, "what": "losses", "bytes": "00ff", "progress": progress}
    write("wire", "give.bin", frames({"Give": give}, {"Wish": {"signal": "SIGTERM"}}))
    welcome = {"peers": [peer, peer], "blob": "ab", "drift": None}
    write("wire", "job.bin", frames("Heard", {"Welcome": welcome}, {"Gathered": {"sequence": 0, "parts": ["", "ff"]}}))
    mismatch = {"what": "class", "expected": "1", "found": "2", "hint": ""}
    halt = {"step": 9, "rank": 1, "signal": "SIGTERM"}
    write("wire", "ends.bin", frames({"Halt": halt}, {"Failed": {"Refused": mismatch}}, {"Bye": {"exit": 75}}))


if __name__ == "__main__":
    shards()
    images()
    checkpoints()
    runs()
    weights()
    wire()
