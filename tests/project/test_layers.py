"""The packages that docs/design.md describes: what each may import, and the length of its code."""

import ast
import sys
from pathlib import Path

import pytest
from helpers.checkout import PACK

# The part of the standard library that a package may use: no processes, no network, no eval.
STDLIB = set(
    "collections contextlib copy dataclasses filecmp inspect json logging math os pathlib re "
    "types typing uuid weakref".split()
)
LIBRARIES = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "PIL", "numpy"}
COMFYUI = {"comfy", "folder_paths", "latent_preview", "node_helpers"}
HUB = {"huggingface_hub", "requests", "filelock", "numpy"}
# The download package uses the network, in threads. tests/project/test_security.py checks it.
HUB |= {"concurrent", "contextlib", "hashlib", "shutil", "threading", "time"}
# Nodes may import only these from nodes/, and not each other.
SHARED = {"sockets", "widgets", "stage_inputs"}

# Package → the libraries beside STDLIB, and the other packages, that it may import.
RULES = {
    "utils/kandinsky": (LIBRARIES, set()),
    "utils/files": (LIBRARIES, {"utils/kandinsky"}),
    "utils/comfyui": (
        LIBRARIES | COMFYUI | {"huggingface_hub"},
        {"utils/kandinsky", "utils/files"},
    ),
    "utils/download": (HUB, set()),
    "nodes": (
        {"comfy_api", "folder_paths", "server"},
        {"utils/kandinsky", "utils/files", "utils/comfyui", "utils/download"},
    ),
}
MOST_LINES = {"function": 50, "file": 200}


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Return the (libraries, packages of this pack) that a file imports.

    A node is named as its file.
    """
    packages, rooms = set(), set()
    here = path.parent.relative_to(PACK).parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            packages.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                parts = (*base, *name.split("."))
                is_node = parts[0] == "nodes" and len(parts) > 1 and parts[1] not in SHARED
                rooms.add("/".join(parts[: 2 if is_node or parts[0] == "utils" else 1]))
    return packages, rooms


def breaches(path: Path, room: str) -> set[str]:
    """Return the imports of a file that its package does not allow."""
    libraries, others = RULES[room]
    packages, rooms = imports_of(path)
    if path.name == "__init__.py":  # the one place that knows every node
        rooms = {name for name in rooms if not name.startswith("nodes/")}
    return (packages - STDLIB - libraries) | (rooms - others - {room})


FILES = [(room, path) for room in RULES for path in sorted((PACK / room).rglob("*.py"))]
each_file = pytest.mark.parametrize(
    "room, path", FILES, ids=[f"{room}/{path.stem}" for room, path in FILES]
)


@each_file
def test_imports_run_one_way(room, path):
    assert not breaches(path, room)


@pytest.mark.parametrize(
    "room, line",
    [
        ("utils/kandinsky", "import comfy.utils"),
        ("utils/kandinsky", "from ..files import headers"),
        ("utils/files", "import folder_paths"),
        ("utils/files", "from ..comfyui.model import Kandinsky22"),
        ("utils/comfyui", "from ..download.hub import fetch"),
        ("utils/comfyui", "from ...nodes import sockets"),
        ("utils/download", "import torch"),
        ("utils/download", "from ..kandinsky.checks import check_choice"),
        ("utils/comfyui", "import asyncio"),
        ("nodes", "import subprocess"),
        ("nodes", "from .decoder import Decoder"),
        ("nodes", "import torch"),
        ("nodes", "import comfy.model_management"),
    ],
)
def test_a_breach_is_seen(room, line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACK", tmp_path)
    path = tmp_path / room / "breach.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"import json\n\n{line}\n", "utf-8")
    assert len(breaches(path, room)) == 1


def test_utils_holds_its_four_rooms_and_nothing_else():
    there = {path.name for path in (PACK / "utils").iterdir() if path.name != "__pycache__"}
    assert there == {"__init__.py", "kandinsky", "files", "comfyui", "download"}


@each_file
def test_files_and_functions_are_short(room, path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES["file"]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, functions):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MOST_LINES["function"], f"{node.name} has {length} lines"


def test_importing_the_pack_imports_nothing_heavy():
    path = PACK / "__init__.py"
    tree = ast.parse(path.read_text("utf-8"))
    standard = {"importlib", "pathlib", "sys"}
    assert imports_of(path) == (standard, {"nodes"})
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(isinstance(node, ast.Import) or not node.level for node in at_the_top)
