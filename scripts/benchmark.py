"""Compare this pack with diffusers, on the same files and weights.

    python scripts/benchmark.py decode [--size medium] [--rounds 5] [--save]
    python scripts/benchmark.py plot

This prints a table. --save writes it to benchmarks/results/ as JSON and Markdown, with the machine,
the versions and the command. benchmarks/README.md says what is measured, and how. Times vary on
each machine, so only the ratios within one run are reliable.
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
import utils.json_util  # noqa: E402, F401  # as main.py does: ComfyUI's own `utils` comes first

from benchmarks import plot, report  # noqa: E402
from benchmarks.checkpoints import DTYPES, SIZES  # noqa: E402

COMMANDS = {
    "load": "load a UNet from disk, compared with from_pretrained",
    "prior": "prompt to image embeddings",
    "decode": "image embeddings to latents, in the node and in KSampler; latents to pictures",
    "loops": "prior and decoder, one after the other",
    "inpaint": "prepare the mask, and the whole stage",
    "graph": "a workflow on a real server, and ComfyUI's share of it",
    "memory": "the peak memory of a decode",
    "peak": "the peak main memory of a server for text-to-image with a negative prompt",
    "optimize": "each choice of the Optimize node",
    "batch": "jobs per second with one server and with two",
    "rows": "how long scripts/batch.py takes to its first job, for a table of many rows",
    "count": "the work that one step sends to a GPU, counted without a GPU",
    "solvers": "how close fewer calls of the UNet come to the published sampler",
    "patches": "how many objects deep shrink draws at twice the trained size",
    "training": "what the template Train a LoRA teaches the bundled model",
}
# The parameters of a command's `run` are its options, with their defaults.
OPTIONS = {
    "size": dict(choices=SIZES, help="size of the model"),
    "dtype": dict(choices=DTYPES, help="dtype of weights and computation"),
    "pixels": dict(type=int, help="width and height of the picture"),
    "batch": dict(type=int, help="batch size"),
    "steps": dict(type=int, help="steps of the loop"),
    "rounds": dict(type=int, help="rounds that count"),
    "compile": dict(const="inductor", nargs="?", metavar="BACKEND", help="also compiled models"),
    "channels_last": dict(action="store_true", help="also Optimize's channels_last"),
    "modes": dict(choices=("normal", "novram"), help="ComfyUI's memory management"),
    "caps": dict(type=float, metavar="GIB", help="limits of GPU memory; 0: no limit"),
    "against": dict(type=Path, metavar="FOLDER", help="also another checkout"),
    "prompts": dict(type=int, help="number of prompts"),
    "seeds": dict(type=int, help="pictures for each prompt"),
    "rows": dict(type=int, help="rows of the table"),
    "done": dict(type=int, help="rows that are in the manifest already"),
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
        command.add_argument("--save", action="store_true", help="write to benchmarks/results/")
    commands.add_parser("plot", help="draw the saved ratios")
    return parser.parse_args()


def add_option(command: argparse.ArgumentParser, name: str, default: Any) -> None:
    several = {"nargs": "+"} if isinstance(default, tuple) else {}
    words = " ".join(map(str, default)) if several else default
    settings = OPTIONS[name] | several | {"default": default}
    settings["help"] += f" (default: {words or 'none' if name != 'pixels' else 'by size'})"
    command.add_argument(f"--{name.replace('_', '-')}", **settings)


def run_once(module: str, arguments: str) -> None:
    """Run one measurement in this process, for a command that starts processes."""
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
