"""Pack what a GPU machine without network lacks to run scripts/device_check.py: one zip file.

    python scripts/pack_for_device.py [--python 3.12] [--out device.zip]

The file has two folders: `ComfyUI`, and `packages` for --packages of device_check. The machine has
PyTorch, transformers and accelerate of its own. In place of packages that ComfyUI imports and a run
without a server never uses (video, audio, some samplers), stand-ins are packed: modules that can be
imported and do nothing. Where the machine has the real package, it is used.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import pack  # noqa: E402

PACKAGES = """
    diffusers importlib-metadata zipp torchsde trampoline einops comfy-aimdo comfy-kitchen
    pillow requests urllib3 charset-normalizer certifi pytest iniconfig pluggy
""".split()
NOT_USED = ("av", "scipy", "torchvision", "torchaudio")
NOT_PACKED = (
    *("models", "input", "output", "temp", "user", "custom_nodes", "blueprints", "web", ".git"),
    *(".ci", ".github", "comfy_api_nodes", "tests", "tests-unit", "script_examples"),
)
STAND_IN = '''"""Stands in for a module that this run imports and never uses."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
'''


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=running, help="that machine's (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("device.zip"), help="default: %(default)s")
    return parser.parse_args()


def copy_comfyui(comfyui: Path, folder: Path) -> None:
    """Copy ComfyUI without what belongs to a server and its user."""

    def left_out(here: str, names: list[str]) -> set[str]:
        return {*NOT_PACKED, "__pycache__"} if Path(here) == comfyui else {"__pycache__"}

    shutil.copytree(comfyui, folder, ignore=left_out)


def install_packages(folder: Path, python: str) -> None:
    """Install the versions of this environment, for Linux on x86-64 and that Python."""
    platforms = ("2_17", "2_27", "2_28", "2_34")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--target", str(folder), "--python-version", python]
    for number in platforms:
        command += ["--platform", f"manylinux_{number}_x86_64"]
    subprocess.run([*command, *(f"{name}=={version(name)}" for name in PACKAGES)], check=True)


def write_stand_ins(folder: Path, comfyui: Path) -> None:
    """Write a module for each name of a package in NOT_USED that ComfyUI imports."""
    packages = "|".join(NOT_USED)
    line = re.compile(rf"^\s*(?:from|import) ((?:{packages})(?:\.\w+)*)\b", re.MULTILINE)
    for file in comfyui.rglob("*.py"):
        for name in line.findall(file.read_text("utf-8")):
            for end in (index for index, letter in enumerate(name + ".") if letter == "."):
                module = folder.joinpath(*name[:end].split("."))
                module.mkdir(parents=True, exist_ok=True)
                (module / "__init__.py").write_text(STAND_IN, "utf-8")


def main() -> None:
    options = parse_arguments()
    comfyui = pack.enter_host().comfyui
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        copy_comfyui(comfyui, root / "ComfyUI")
        install_packages(root / "packages", options.python)
        for kernels in (root / "packages" / "comfy_kitchen").rglob("*.so"):
            kernels.unlink()  # 160 MB, and ComfyUI works without them
        write_stand_ins(root / "packages" / "stand_ins", root / "ComfyUI")
        archive = shutil.make_archive(str(options.out.with_suffix("")), "zip", root)
    name = Path(archive).name
    print(f"{archive}: {Path(archive).stat().st_size / 2**20:.1f} MiB. On that machine:\n")
    print(f"    python -m zipfile -e {name} device")
    print(
        "    python scripts/device_check.py --comfyui device/ComfyUI --packages device/packages "
        "--out rows"
    )


if __name__ == "__main__":
    main()
