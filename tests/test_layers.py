"""The layers that docs/design.md describes: who may import what."""

import ast
import sys

import pytest
from helpers.checkout import PACK

PURE = {"values", "sizes", "tensors", "embeds", "latents"}
LOOPS = {"prior", "decoder", "schedulers", "hint", "preview", "mix_chart"}
DOWNLOADS = {"downloads", "hub", "repositories", "half_precision"}
STDLIB = {
    "collections",
    "dataclasses",
    "filecmp",
    "inspect",
    "json",
    "logging",
    "math",
    "pathlib",
    "typing",
    "importlib",
    "os",
    "re",
    "types",
    "uuid",
    "weakref",
}
HOST = {"comfy", "folder_paths", "latent_preview", "node_helpers"}
LIBRARIES = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "PIL", "numpy"}


def imports_of(path) -> tuple[set[str], set[str]]:
    """(top-level packages, siblings) that a file imports."""
    packages, siblings = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            siblings |= {"." * node.level + name for name in names}
    return packages, siblings


@pytest.mark.parametrize("path", sorted((PACK / "utils").glob("*.py")), ids=lambda p: p.stem)
def test_utils(path):
    packages, siblings = imports_of(path)
    allowed = STDLIB | {"torch", "safetensors", "PIL"}
    if path.stem in PURE:
        assert siblings <= {"." + name for name in PURE}
    elif path.stem in LOOPS:
        allowed |= LIBRARIES
        assert siblings <= {"." + name for name in PURE | LOOPS}
    elif path.stem in DOWNLOADS:
        allowed = sys.stdlib_module_names | {"huggingface_hub", "requests", "filelock", "numpy"}
        assert siblings <= {"." + name for name in DOWNLOADS}
    else:
        allowed |= LIBRARIES | HOST
    assert packages <= allowed
    assert not [name for name in siblings if name.startswith("..")]


@pytest.mark.parametrize("path", sorted((PACK / "nodes").glob("*.py")), ids=lambda p: p.stem)
def test_nodes(path):
    packages, siblings = imports_of(path)
    assert packages <= STDLIB | {"comfy_api", "folder_paths", "server"}
    if path.stem != "__init__":
        assert siblings <= {".types", ".widgets"} | {
            name for name in siblings if name.startswith("..utils")
        }


def test_importing_the_pack_imports_nothing_heavy():
    packages, siblings = imports_of(PACK / "__init__.py")
    assert packages == set() and siblings == {".nodes"}
    tree = ast.parse((PACK / "__init__.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
