"""Measure this pack against diffusers, side by side on the same files and weights.

    python scripts/benchmark.py load [--rounds 5] [--small] [--save]
    python scripts/benchmark.py optimize [--rounds 5] [--small] [--save]

Prints a table; --save writes it, with the machine, the versions and the command, as JSON and
Markdown into benchmarks/results/. Machines are noisy: only the ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import pack

found = pack.enter_host()

import torch  # noqa: E402
from kandinsky22.benchmarks import load, optimize  # noqa: E402


def describe_machine() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    packages = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
    return {
        "gpu": gpu,
        "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "comfyui": found.version,
        **{name: version(name) for name in packages},
        "command": " ".join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
    }


def save(name: str, rows: list[dict], table: str) -> None:
    results, machine = pack.ROOT / "benchmarks" / "results", describe_machine()
    results.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": machine, "rows": rows}, indent=1)
    (results / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    text = f"# {name}\n\n{facts}\n\n{table}\n"
    (results / f"{name}.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("load", "a UNet from disk, against from_pretrained"),
        ("optimize", "calls of a UNet with each choice of the Optimize node"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--rounds", type=int, default=5)
        command.add_argument("--small", action="store_true", help="53 M parameters, not 1253 M")
        command.add_argument("--save", action="store_true", help="write benchmarks/results/")
    child = commands.add_parser("load-once")  # a process of its own for one load
    for name, kind in (("loader", str), ("folder", Path), ("dtype", str)):
        child.add_argument(name, type=kind)
    options = parser.parse_args()
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available() or options.command == "load-once"
    if options.command == "load-once":
        print(json.dumps(load.load_once(options.loader, options.folder, options.dtype)))
        return
    measured = {"load": load, "optimize": optimize}[options.command]
    rows = measured.run(options.rounds, options.small)
    print(measured.table(rows))
    if options.save:
        save(options.command, rows, measured.table(rows))


if __name__ == "__main__":
    main()
