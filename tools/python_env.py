"""Pinned Python packages for the tools beside this file, each tool in a virtual environment of its own."""

import os
import pathlib
import subprocess
import sys

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "verydeep"
UNAVAILABLE = 77
# Of the tools that judge by PyTorch: one environment, named after tools/check-weights, as it is large.
TORCH = ["numpy==2.4.6", "torch==2.15.0", "torchvision==0.29.2", "onnx==1.23.2", "onnxruntime==1.32.0", "pillow==13.0.0",
         "safetensors==0.8.0"]


def enter(tool, packages):
    """Continues in CACHE/`tool`/venv, which holds exactly these packages; exit 77 where they cannot be had."""
    venv = CACHE / tool / "venv"
    python, stamp = venv / "bin" / "python", venv / "installed"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"{tool}: installing {', '.join(packages)}", file=sys.stderr, flush=True)
        for command in ([sys.executable, "-m", "venv", venv], [python, "-m", "pip", "install", "--quiet", *packages]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                print(f"{tool}: skipped, its Python packages cannot be had here: "
                      f"{(done.stdout.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
                sys.exit(UNAVAILABLE)
        stamp.write_text(wanted)
    if pathlib.Path(sys.prefix).resolve() != venv.resolve():
        os.execv(python, [str(python), *sys.argv])
