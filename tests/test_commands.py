"""What the scripts say to a command that cannot be."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkout import PACK


def refuse(script: Path, *arguments: str, options: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *options, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("queue", ["any.json", "--servers", ","], "--servers names none"),
        ("test", ["--matrix", "--coverage"], "--coverage is of one host"),
        ("fit_preview", ["nowhere"], "nowhere is no decoder folder: it has no folder movq"),
        ("get_models", ["kandinsky-3"], "no model named 'kandinsky-3'"),
        ("benchmark", ["load", "--size", "miniature"], "a UNet of its own, of size thin, medium"),
        ("demo", ["--workflow", "nothing"], "It has: area_composition"),
    ],
)
def test_what_is_said(script, arguments, message):
    assert message in refuse(PACK / "scripts" / f"{script}.py", *arguments)


@pytest.mark.parametrize("script", ["get_models", "fit_preview"])
def test_an_installed_pack_wants_the_python_of_its_comfyui(tmp_path, script):
    """No environment is made beside it. -S: a Python without any packages."""
    place = tmp_path / "custom_nodes" / "kandinsky22"
    place.parent.mkdir()
    place.symlink_to(PACK, target_is_directory=True)
    said = refuse(place / "scripts" / f"{script}.py", "x", options=("-S", "-E"))
    assert "Run this with the Python that runs your ComfyUI" in said
