"""--host VERSION+newest installs the newest libraries of the package index at that moment."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers.checkout import PACK

from scripts import host


def write_wheel(folder: Path, name: str, number: str, needs: str = "") -> None:
    info = f"{name.replace('-', '_')}-{number}.dist-info"
    needed = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(
        folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl", "w"
    ) as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{needed}"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def test_the_newest_torch_is_one_that_a_torchvision_goes_with(tmp_path, monkeypatch):
    """The index is a folder with newer libraries. torchvision decides which torch is installed."""
    index = tmp_path / "index"
    index.mkdir()
    for name in host.LATEST_OF:
        write_wheel(index, name, version(name))
    for number in ("98.0", "99.0"):
        write_wheel(index, "torch", number)
    write_wheel(index, "torchvision", "97.0", "torch==98.0")
    write_wheel(index, "transformers", "99.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with open(tmp_path / "lock", "w") as lock:
        steps = host.Steps(print, lock, 1)
        lines = host.newest_lines(Path(sys.executable), tmp_path / "log.txt", steps)
    assert sorted(lines) == ["torch===98.0", "torchvision===97.0", "transformers===99.1"]


def test_it_is_of_a_comfyui_that_there_is():
    host.check_machine(host.NEWEST + host.LATEST)
    with pytest.raises(host.SetupError, match="No ComfyUI 0.1.0.newest here"):
        host.check_machine("0.1.0+newest")


def test_the_matrix_has_it():
    command = [sys.executable, PACK / "scripts" / "test.py", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    assert f"{host.NEWEST}+newest" in shown.replace("\n", " ")


def test_the_header_says_the_versions(request):
    hook = request.config.pluginmanager.hook
    shown = str(hook.pytest_report_header(config=request.config, start_path=PACK))
    assert f"torch {version('torch')}, torchvision {version('torchvision')}" in shown
