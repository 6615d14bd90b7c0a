"""The result of a benchmark, with the machine: a table, JSON, Markdown."""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
RATIO = "{ratio:.2f} ({quartiles[0]:.2f}–{quartiles[1]:.2f})"
TIMES = {
    "case": "{case}",
    "s, ours": "{ours:.4f}",
    "s, diffusers": "{theirs:.4f}",
    "ratio (quartiles)": RATIO,
    "bar": "≤ {bar}",
}


def describe_machine(comfyui: str) -> dict[str, str]:
    gpu = "none"
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return {
        "gpu": gpu,
        "cpu": f"{cpu_name()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "comfyui": comfyui,
        **{name: version(name) for name in PACKAGES},
        "command": " ".join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return " ".join([platform.machine(), *names[:1]])


def device_slug() -> str:
    """Return "cpu", or the GPU's name, for file names."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """Return a Markdown table.

    `columns` is heading → format of a row. If a row lacks a value, its cell stays empty.
    """
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(form, row) for form in columns.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(form: str, row: dict) -> str:
    try:
        return form.format(**row)
    except KeyError:
        return ""


def save(file: Path, rows: list[dict], columns: dict[str, str], machine: dict[str, str]) -> None:
    """Write file.json and file.md."""
    file.parent.mkdir(exist_ok=True)
    content = json.dumps({"machine": machine, "rows": rows}, indent=1)
    file.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    text = f"# {file.name}\n\n{facts}\n\n{table(rows, columns)}\n"
    file.with_suffix(".md").write_text(text, encoding="utf-8")
