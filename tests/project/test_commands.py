"""The scripts' errors for invalid commands, and where Python finds their imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkout import PACK

CODE = [file for name in ("scripts", "tools", "benchmarks") for file in (PACK / name).rglob("*.py")]
BEGINNING = """
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts"""


def refuse(script: Path, *arguments: str, options: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *options, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("batch", ["any.json", "--servers", ","], "--servers names none"),
        ("test", ["--matrix", "--coverage"], "--coverage is of one host"),
        ("fit_preview", ["nowhere"], "nowhere is no decoder folder: it has no folder movq"),
        ("get_models", ["kandinsky-3"], "no model named 'kandinsky-3'"),
        ("benchmark", ["load", "--size", "miniature"], "a UNet of its own, of size thin, medium"),
        ("demo", ["--workflow", "nothing"], "It has: 20_steps_beside_50"),
    ],
)
def test_what_is_said(script, arguments, message):
    assert message in refuse(PACK / "scripts" / f"{script}.py", *arguments)


@pytest.mark.parametrize("script", ["get_models", "fit_preview"])
def test_an_installed_pack_wants_the_python_of_its_comfyui(tmp_path, script):
    """No environment is made beside it. -S gives a Python without any packages."""
    place = tmp_path / "custom_nodes" / "kandinsky22"
    place.parent.mkdir()
    place.symlink_to(PACK, target_is_directory=True)
    said = refuse(place / "scripts" / f"{script}.py", "x", options=("-S", "-E"))
    assert "Run this with the Python that runs your ComfyUI" in said


def test_every_program_puts_the_checkout_on_the_path_and_no_other_module_does():
    for path in CODE:
        text = re.sub("^ +", "", path.read_text("utf-8"), flags=re.M)
        started = '\nif __name__ == "__main__":\n' in text
        imports = re.search(r"^from (scripts|tools|benchmarks)\b", text, re.M)
        assert text.count(BEGINNING) == bool(started and imports), path


def test_there_is_one_name_for_each_module():
    for path in [*CODE, *(PACK / "tests").rglob("*.py")]:
        other = r"(kandinsky22|\.)\.(scripts|tools|benchmarks)\b|^import (host|pack|client)\b"
        assert not re.search(other, path.read_text("utf-8"), re.M), path
