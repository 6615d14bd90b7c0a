"""For scripts that use the pack: find a Python with its libraries, and a name to import it by."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

from scripts import host

ROOT = Path(__file__).resolve().parents[1]


def run_with_libraries() -> None:
    """Continue if diffusers is installed. Otherwise run this script again where it is installed."""
    if find_spec("diffusers") is None:
        run_elsewhere("diffusers")


def run_elsewhere(missing: str) -> None:
    """Run this script again, in the environment of a clone.

    An installed pack uses ComfyUI's Python.
    """
    script = Path(os.path.abspath(sys.argv[0]))  # resolve() would follow a link
    if script.parents[1].parent.name == "custom_nodes":
        sys.exit(
            f"{sys.executable} has no {missing}. Run this with the Python that runs your ComfyUI, "
            "where the pack's requirements.txt is installed."
        )
    sys.exit(subprocess.call([host.ensure().python, *sys.argv]))


def name_pack() -> None:
    """Make this checkout importable as `kandinsky22`, whatever its folder's name."""
    package = types.ModuleType("kandinsky22")
    package.__path__ = [str(ROOT)]
    sys.modules["kandinsky22"] = package


def enter_host() -> host.Host:
    """Make the pack and a ComfyUI importable."""
    found = host.ensure()
    run_with_libraries()
    name_pack()
    sys.path.insert(0, str(found.comfyui))
    return found
