"""Test and measure this pack on a GPU, in the Python that is there, without network.

    python scripts/device_check.py --comfyui PATH --out FOLDER [--packages PATH] [--size full]

That Python needs PyTorch, transformers and accelerate. What else is imported may lie in the folder
of --packages; `scripts/pack_for_device.py` fills such a folder and one for --comfyui.

Each part runs in a process of its own, with a limit of time: eight minutes in all. Each measurement
is a line of FOLDER/rows.jsonl, written as soon as it is known; FOLDER/log.txt has what the parts
print.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import pack  # noqa: E402

# Functions of benchmarks/device.py, in the order in which they run → seconds at most.
PARTS = {
    "machine": 20,
    "weights": 60,
    "tests": 80,
    "eager": 60,
    "eager_with_dynamic_memory": 60,
    "choices": 40,
    "compiled": 120,
    "ours_in_6_gib": 25,
    "diffusers_in_6_gib": 25,
    "ours_in_4_gib": 25,
    "diffusers_in_4_gib": 25,
    "least": 25,
}
NEEDED = ("machine", "weights")  # by all later parts
SECONDS = 480


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of ComfyUI")
    parser.add_argument("--out", type=Path, required=True, help="for rows.jsonl and log.txt")
    parser.add_argument("--packages", type=Path, help="a folder of packages that Python lacks")
    parser.add_argument("--size", default="full", choices=("thin", "medium", "full"))
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="for all parts together (default: %(default)s)",
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_row(out: Path, row: dict[str, Any]) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def extend_path(packages: Path) -> None:
    """Append the packages. What this Python has of its own comes before what was packed."""
    sys.path.append(str(packages))
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # it remembers its answer, which the stand-in would change
    sys.path.append(str(packages / "stand_ins"))


def run_part(options: argparse.Namespace) -> None:
    """Run one part in this process and write its rows."""
    if options.packages:
        extend_path(options.packages.resolve())
    pack.name_pack()
    sys.path.insert(0, str(options.comfyui.resolve()))
    import comfy.cli_args
    import torch
    import utils.json_util  # noqa: F401  # as main.py does: ComfyUI's own `utils` comes first

    comfy.cli_args.args.cpu = not torch.cuda.is_available()  # before ComfyUI looks for a device
    from benchmarks import device

    for row in getattr(device, options.part)(options.weights, options.size):
        write_row(options.out, {"part": options.part, **row})


def start_part(name: str, weights: Path, seconds: float, out: Path) -> str:
    """Run one part in a process of its own. Return why it failed, or an empty text."""
    command = [sys.executable, *sys.argv, "--part", name, "--weights", str(weights)]
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        try:
            code = subprocess.run(command, stdout=log, stderr=log, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    last = (out / "log.txt").read_text("utf-8").rstrip().rpartition("\n")[2]
    return f"exit {code}: {last}" if code else ""


def main() -> None:
    options = parse_arguments()
    if options.part:
        return run_part(options)
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    failed = False
    with tempfile.TemporaryDirectory() as work:
        for name, limit in PARTS.items():
            start = time.monotonic()
            seconds = min(limit * options.seconds / SECONDS, end - start)
            why = start_part(name, Path(work) / "decoder", seconds, options.out)
            took = round(time.monotonic() - start, 1)
            write_row(options.out, {"part": name, "took": took, "failed": why or None})
            failed |= bool(why)
            if why and name in NEEDED:
                break
    sys.exit(failed)


if __name__ == "__main__":
    main()
