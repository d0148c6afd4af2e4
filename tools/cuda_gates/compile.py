"""Compiles kernels/*.cu with NVRTC and nvcc for every target and reports what each kernel uses.

Fails on any error, any warning, any spill or local memory, where the entry points of NVRTC's PTX are not the kernels
that the sources declare, and on instructions that do not round correctly. Run by tools/cuda-gates.

Occupancy is the share of an SM's warps that are resident when blocks of one kernel fill it: with W warps a block,
R registers a thread and S bytes of static shared memory a block,
    blocks = min(blocks per SM, warps per SM / W, 4 * ((registers per SM / 4) / roundup(32 R, 256)) / W,
                 shared memory per SM / roundup(S + 1024, 128)), each quotient rounded down;
    occupancy = blocks * W / warps per SM.
(Registers are allotted per warp in units of 256, from the quarter of the SM that runs it; 1024 bytes of shared memory a
block are the system's.) The block size is the kernel's __launch_bounds__, or 256.
"""

import argparse
import concurrent.futures
import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CUDA = pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13"

# Limits per SM (CUDA programming guide, table of technical specifications per compute capability).
LIMITS = {
    80: {"warps": 64, "blocks": 32, "registers": 65536, "shared": 164 << 10},
    90: {"warps": 64, "blocks": 32, "registers": 65536, "shared": 228 << 10},
    100: {"warps": 64, "blocks": 32, "registers": 65536, "shared": 228 << 10},
    120: {"warps": 48, "blocks": 24, "registers": 65536, "shared": 100 << 10},
}
TARGETS = list(LIMITS)
NVRTC_OPTIONS = ["--std=c++17", "--fmad=false"]

KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\s*\([\w, ]+\)\s+)?void\s+(\w+)\s*\(')
ENTRY = re.compile(r"\.entry\s+(\w+)\s*\(")
BOUNDS = re.compile(r"\.entry\s+(\w+)\s*\([^)]*\)\s*\.maxntid\s+(\d+)")
# Approximations, and subnormals flushed to zero: results would differ from the CPU's.
INEXACT = re.compile(r"\b\w+(?:\.\w+)*\.(?:approx|full|ftz)(?:\.\w+)*")
COMPILING = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
# What the compilers say when nothing is wrong.
CHATTER = re.compile(r"^\s*(?:ptxas info\s*:.*|(?:ptxas\s+\.)?\s*\d+ bytes stack frame, .*)?$")


class Failure(Exception):
    """One finding, in one line or a compiler's text."""


def preprocessed(path):
    """A source as the compilers see it, its headers included: macros declare kernels, too."""
    command = ["g++", "-E", "-P", "-x", "c++", "-std=c++17", "-I", str(path.parent), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failure(f"g++ -E: {done.stderr.strip()}")
    return done.stdout


def declared(source):
    """Names of the kernels that a preprocessed source declares."""
    names = KERNEL.findall(source)
    if len(names) != source.count("__global__"):
        form = 'extern "C" __global__ [__launch_bounds__(N)] void name('
        raise Failure(f"a __global__ function is not of the form {form}")
    return names


def usage_of(text):
    """What `ptxas -v` said: {(kernel, target): resources}."""
    found, current = {}, None
    for line in text.splitlines():
        if match := COMPILING.search(line):
            current = found.setdefault((match[1], int(match[2])), {"shared": 0})
        elif current is not None and (match := STACK.search(line)):
            current.update(stack=int(match[1]), spill_stores=int(match[2]), spill_loads=int(match[3]))
        elif current is not None and (match := USED.search(line)):
            current["registers"] = int(match[1])
            if shared := SHARED.search(line):
                current["shared"] = int(shared[1])
    return found


def complaints(text):
    """The lines of a compiler's output that are not chatter."""
    return [line for line in text.splitlines() if not CHATTER.match(line)]


class Nvrtc:
    """The run-time compiler, as the program uses it: sources from memory, headers by name."""

    def __init__(self):
        libraries = sorted(CUDA.glob("lib/libnvrtc-builtins.so*")) + sorted(CUDA.glob("lib/libnvrtc.so*"))
        if len(libraries) < 2:
            raise Failure(f"no NVRTC in {CUDA / 'lib'}")
        for library in libraries:
            self.library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)

    def text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw[: size.value]

    def compile(self, name, source, headers, target):
        """(resources, PTX) of one source; raises on any error or warning."""
        program = ctypes.c_void_p()
        count = len(headers)
        names = (ctypes.c_char_p * count)(*[header.encode() for header in headers])
        texts = (ctypes.c_char_p * count)(*[text.encode() for text in headers.values()])
        status = self.library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), name.encode(), count, texts, names
        )
        if status != 0:
            raise Failure(f"nvrtcCreateProgram: status {status}")
        options = [*NVRTC_OPTIONS, f"--gpu-architecture=sm_{target}", "--ptxas-options=-v"]
        words = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = self.library.nvrtcCompileProgram(program, len(options), words)
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode()
        if status != 0 or complaints(log):
            raise Failure("\n".join(complaints(log)) or f"nvrtcCompileProgram: status {status}")
        if not self.text(program, "CUBIN").startswith(b"\x7fELF"):
            raise Failure("NVRTC made no CUBIN")
        ptx = self.text(program, "PTX").rstrip(b"\0").decode()
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return usage_of(log), ptx


def nvcc(path, target, folder):
    """Resources of one source by nvcc; raises on any error or warning."""
    output = pathlib.Path(folder) / f"{path.stem}.{target}.cubin"
    command = [
        str(CUDA / "bin" / "nvcc"),
        "-cubin",
        f"-arch=sm_{target}",
        "-std=c++17",
        "--fmad=false",
        "-Xptxas=-v",
        "-Wno-deprecated-gpu-targets",
        "-o",
        str(output),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    text = done.stdout + done.stderr
    if done.returncode != 0 or complaints(text):
        raise Failure("\n".join(complaints(text)) or f"nvcc: status {done.returncode}")
    return usage_of(text)


def occupancy(target, threads, registers, shared):
    """(resident blocks, share of the SM's warps): see the head of this file."""
    limits = LIMITS[target]
    warps = -(-threads // 32)
    per_warp = -(-32 * max(registers, 1) // 256) * 256
    blocks = min(
        limits["blocks"],
        limits["warps"] // warps,
        limits["registers"] // 4 // per_warp * 4 // warps,
        limits["shared"] // (-(-(shared + 1024) // 128) * 128),
    )
    return blocks, blocks * warps / limits["warps"]


def check(sources):
    """(table, failures) of the folder `sources`. The table: {kernel: {"file", "threads", "targets": {target: ...}}}."""
    files = sorted(sources.glob("*.cu"))
    headers = {path.name: path.read_text() for path in sorted(sources.glob("*.cuh"))}
    if not files:
        return {}, [f"no kernels in {sources}"]
    nvrtc = Nvrtc()
    failures, table, results = [], {}, {}
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        jobs = {}
        for path in files:
            for target in TARGETS:
                jobs["nvcc", path, target] = pool.submit(nvcc, path, target, folder)
                jobs["NVRTC", path, target] = pool.submit(nvrtc.compile, path.name, path.read_text(), headers, target)
        for (compiler, path, target), job in jobs.items():
            try:
                results[compiler, path, target] = job.result()
            except Failure as failure:
                failures.append(f"{compiler} {path.name} sm_{target}: {failure}")
    for path in files:
        try:
            kernels = declared(preprocessed(path))
        except Failure as failure:
            failures.append(f"{path.name}: {failure}")
            continue
        for name in kernels:
            if name in table:
                failures.append(f"{path.name}: {name} is also in {table[name]['file']}")
            table[name] = {"file": path.name, "threads": 256, "targets": {}}
        for target in TARGETS:
            by_nvcc = results.get(("nvcc", path, target))
            by_nvrtc, ptx = results.get(("NVRTC", path, target), (None, None))
            if ptx is not None:
                entries = sorted(ENTRY.findall(ptx))
                if entries != sorted(kernels):
                    failures.append(f"NVRTC {path.name} sm_{target}: entry points {entries}, kernels {sorted(kernels)}")
                if inexact := sorted(set(INEXACT.findall(ptx))):
                    failures.append(f"NVRTC {path.name} sm_{target}: inexact instructions {', '.join(inexact)}")
                for name, threads in BOUNDS.findall(ptx):
                    if name in kernels:
                        table[name]["threads"] = int(threads)
            for compiler, usage in (("nvcc", by_nvcc), ("NVRTC", by_nvrtc)):
                if usage is not None:
                    failures += record(table, compiler, path, target, kernels, usage)
    return table, failures


def record(table, compiler, path, target, kernels, usage):
    """Enters what ptxas said into the table (the larger of two compilers); returns what is wrong with it."""
    failures = []
    for name in kernels:
        used = usage.get((name, target))
        if used is None or "registers" not in used or "stack" not in used:
            failures.append(f"{compiler} {path.name} sm_{target}: ptxas says nothing of {name}")
            continue
        if used["spill_stores"] or used["spill_loads"]:
            failures.append(
                f"{compiler} {path.name} sm_{target}: {name} spills: "
                f"{used['spill_stores']} bytes of stores, {used['spill_loads']} of loads"
            )
        elif used["stack"]:
            failures.append(f"{compiler} {path.name} sm_{target}: {name} keeps {used['stack']} bytes in local memory")
        entry = table[name]["targets"].setdefault(
            target, {"registers": 0, "shared": 0, "spill_stores": 0, "spill_loads": 0, "stack": 0}
        )
        for key in entry.keys() & used.keys():
            entry[key] = max(entry[key], used[key])
        blocks, share = occupancy(target, table[name]["threads"], entry["registers"], entry["shared"])
        entry.update(blocks=blocks, occupancy=share)
    return failures


def print_table(table):
    width = max(map(len, table), default=6)
    print("registers / bytes of static shared memory / bytes of spills, occupancy")
    print(f"{'kernel':{width}}  block  " + "  ".join(f"{f'sm_{target}':>20}" for target in TARGETS))
    for name, kernel in table.items():
        cells = []
        for target in TARGETS:
            used = kernel["targets"].get(target)
            if used is None:
                cells.append(f"{'-':>20}")
                continue
            spills = used["spill_stores"] + used["spill_loads"]
            resources = f"{used['registers']} / {used['shared']} / {spills}"
            cells.append(f"{resources:>15}{used['occupancy']:>5.0%}")
        print(f"{name:{width}}  {kernel['threads']:>5}  " + "  ".join(cells))


PLANTED = {
    "an error": ('extern "C" __global__ void planted(float* y) { y[0] = undeclared; }', "undeclared"),
    "a warning": ('extern "C" __global__ void planted(float* y) { int unused = 1; y[0] = 0.0f; }', "unused"),
    "a spill": (
        'extern "C" __global__ __launch_bounds__(1024) void planted(float* y) {\n'
        "    float v[96];\n"
        "    for (int i = 0; i < 96; ++i) v[i] = y[i * 1024 + threadIdx.x];\n"
        "    __syncthreads();\n"
        "    for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[95 - i] + v[(i * 7) % 96];\n"
        "}",
        "spills",
    ),
    "local memory": (
        'extern "C" __global__ void planted(float* y, int n) {\n'
        "    float v[8] = {};\n"
        "    for (int i = 0; i < n; ++i) v[n * i % 8] += y[i];\n"
        "    y[0] = v[n % 8];\n"
        "}",
        "local memory",
    ),
    "an approximation": ('extern "C" __global__ void planted(float* y) { y[0] = __expf(y[0]); }', "inexact"),
    "a missing header": ('#include <cuda_runtime.h>\nextern "C" __global__ void planted() {}', "NVRTC planted.cu"),
    "a C++ name": ('__global__ void planted(float* y) { y[0] = 0.0f; }', "is not of the form"),
    "a kernel that some compilers do not see": (
        '#ifndef __CUDACC__\nextern "C" __global__ void phantom(float* y);\n#endif\n'
        'extern "C" __global__ void planted(float* y) { y[0] = 0.0f; }',
        "entry points",
    ),
}


def self_test():
    """Whether the gate catches what it is for."""
    missed = []
    for what, (source, expected) in PLANTED.items():
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "planted.cu").write_text(source + "\n")
            _, failures = check(pathlib.Path(folder))
        caught = any(expected in failure for failure in failures)
        print(f"{'caught' if caught else 'MISSED'}  {what}")
        if not caught:
            missed.append(what)
    return missed


def main():
    parser = argparse.ArgumentParser(prog="tools/cuda-gates compile")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    parser.add_argument("--self-test", action="store_true", help="plant faults and require that each is caught")
    arguments = parser.parse_args()
    if arguments.self_test:
        return 1 if self_test() else 0
    table, failures = check(REPOSITORY / "kernels")
    if arguments.json:
        print(json.dumps({"kernels": table, "failures": failures, "passed": not failures}, indent=1))
    else:
        print_table(table)
        print(f"{len(table)} kernels, {len(TARGETS)} targets, 2 compilers: {'FAILED' if failures else 'passed'}")
    for failure in failures:
        print(f"cuda-gates: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
