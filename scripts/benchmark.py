"""Measure this pack against diffusers, side by side on the same files and weights.

    python scripts/benchmark.py decode [--size medium] [--rounds 5] [--save]
    python scripts/benchmark.py plot

Prints a table; --save writes it, with the machine, the versions and the command, as JSON and
Markdown into benchmarks/results/. What is measured and how: benchmarks/README.md. Machines are
noisy: only the ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import pack  # noqa: E402

found = pack.enter_host()

import comfy.cli_args  # noqa: E402
import torch  # noqa: E402
import utils.json_util  # noqa: E402, F401  # as main.py does: the host's own `utils` comes first

from benchmarks import plot, report  # noqa: E402
from benchmarks.checkpoints import DTYPES, SIZES  # noqa: E402

COMMANDS = {
    "load": "a UNet from disk, against from_pretrained",
    "prior": "prompt to embeddings",
    "decode": "embeddings to latents, in the node and in KSampler; latents to pictures",
    "loops": "prior and decoder, one after the other",
    "inpaint": "the mask, and the whole stage",
    "graph": "a workflow on a real server, and what of it is the host's",
    "memory": "the most that a decode takes",
    "peak": "the most main memory of a server for text to image with a negative prompt",
    "optimize": "each choice of the Optimize node",
    "batch": "jobs a second over one server and two",
    "rows": "how long scripts/batch.py takes to its first job, by rows of the table",
    "count": "what one step gives a GPU to do, without one",
    "solvers": "the same picture in fewer calls of the UNet",
    "training": "what the template Train a LoRA teaches the bundled miniature",
}
# What a command's `run` takes is an option of it; the defaults are there.
OPTIONS = {
    "size": dict(choices=SIZES, help="of the model"),
    "dtype": dict(choices=DTYPES, help="of weights and computing"),
    "pixels": dict(type=int, help="side of the picture"),
    "batch": dict(type=int, help="pictures at once"),
    "steps": dict(type=int, help="of the loop"),
    "rounds": dict(type=int, help="turns that count"),
    "compile": dict(const="inductor", nargs="?", metavar="BACKEND", help="compiled ones, too"),
    "channels_last": dict(action="store_true", help="Optimize's other memory format, too"),
    "modes": dict(choices=("normal", "novram"), help="of the host's memory management"),
    "caps": dict(type=float, metavar="GIB", help="limits of the GPU's memory; 0 is none"),
    "against": dict(type=Path, metavar="FOLDER", help="another checkout of this pack, too"),
    "prompts": dict(type=int, help="how many"),
    "seeds": dict(type=int, help="pictures of each"),
    "rows": dict(type=int, help="of the table"),
    "done": dict(type=int, help="of them in the manifest, from a run before"),
}


def find(command: str):
    return import_module(f"benchmarks.{command}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        for option, parameter in inspect.signature(find(name).run).parameters.items():
            if option in OPTIONS:
                add_option(command, option, parameter.default)
        command.add_argument("--save", action="store_true", help="write benchmarks/results/")
    commands.add_parser("plot", help="draw the saved ratios")
    return parser.parse_args()


def add_option(command: argparse.ArgumentParser, name: str, default: Any) -> None:
    several = {"nargs": "+"} if isinstance(default, tuple) else {}
    words = " ".join(map(str, default)) if several else default
    settings = OPTIONS[name] | several | {"default": default}
    settings["help"] += f" (default: {words or 'none' if name != 'pixels' else 'by size'})"
    command.add_argument(f"--{name.replace('_', '-')}", **settings)


def run_once(module: str, arguments: str) -> None:
    """In a process of its own, for a command that asks for one."""
    comfy.cli_args.args.cpu = module == "load" or not torch.cuda.is_available()
    print(json.dumps(find(module).once(*json.loads(arguments))))


def main() -> None:
    if sys.argv[1:2] == ["once"]:
        return run_once(*sys.argv[2:])
    options = vars(parse_arguments())
    command, save = options.pop("command"), options.pop("save", False)
    if command == "plot":
        return print(plot.draw())
    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    rows, columns = find(command).run(**options), find(command).COLUMNS
    print(report.table(rows, columns))
    if save:
        name = "-".join(filter(None, [command, options.get("size"), report.device_slug()]))
        report.save(report.RESULTS / name, rows, columns, report.describe_machine(found.version))


if __name__ == "__main__":
    main()
