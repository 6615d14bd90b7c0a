"""What is packed for a GPU machine is enough to test and measure there, with no network.

The machine has a Python with PyTorch, transformers, accelerate and what these three need. Here it
has no GPU, so the parts that need one must say so.
"""

import json
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from helpers.checkout import PACK
from packaging.requirements import Requirement

pytestmark = pytest.mark.long

MOST_MIB = 64  # that can be brought along: the pack and what is packed
NEED_A_GPU = {
    "eager_with_dynamic_memory": "Dynamic memory needs an NVIDIA GPU",
    **{f"{whose}_in_{gib}_gib": "needs a GPU" for whose in ("ours", "diffusers") for gib in (6, 4)},
}


def files_of(*names: str) -> dict[str, Path]:
    """Return path in site-packages → file, of these distributions and of all that they require."""
    found: dict[str, Path] = {}
    known, left = set(), [Requirement(name) for name in names]
    while left:
        wanted = left.pop()
        if str(wanted) in known:
            continue
        known.add(str(wanted))
        try:
            distribution = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            continue  # of another system, or optional
        extras = [{"extra": extra} for extra in ("", *wanted.extras)]
        requirements = map(Requirement, distribution.requires or [])
        left += [r for r in requirements if not r.marker or any(map(r.marker.evaluate, extras))]
        files = [file for file in distribution.files or [] if file.parts[0] != ".."]
        found |= {str(file): Path(str(file.locate())) for file in files if file.suffix != ".pyc"}
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for name, file in files_of("torch", "transformers", "accelerate").items():
        place = packages / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "device.zip"
    command = [sys.executable, PACK / "scripts" / "pack_for_device.py", "--out", file]
    subprocess.run(command, check=True)
    return file


def test_it_can_be_brought_along(packed):
    listed = subprocess.check_output(["git", "-C", PACK, "ls-files", "-z"], text=True)
    files = [PACK / name for name in listed.split("\0") if name]
    size = packed.stat().st_size + sum(file.stat().st_size for file in files if file.is_file())
    assert size < MOST_MIB * 2**20


def test_the_bare_python_lacks_what_is_packed(bare_python):
    for missing in ("diffusers", "einops", "pytest", "torchvision", "PIL"):
        done = subprocess.run([bare_python, "-c", f"import {missing}"], capture_output=True)
        assert b"ModuleNotFoundError" in done.stderr, missing


def test_every_part_runs_or_says_what_it_needs(bare_python, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "device")
    command = [bare_python, PACK / "scripts" / "device_check.py", "--size", "thin"]
    command += ["--comfyui", tmp_path / "device" / "ComfyUI", "--out", tmp_path / "rows"]
    command += ["--packages", tmp_path / "device" / "packages", "--seconds", "4000"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    log = (tmp_path / "rows" / "log.txt").read_text("utf-8")
    assert done.returncode == 1, done.stderr  # of the parts that need a GPU
    rows = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").open()]
    ends = {row["part"]: row["failed"] for row in rows if "took" in row}
    assert {part for part, why in ends.items() if why} == set(NEED_A_GPU), (ends, log)
    for part, words in NEED_A_GPU.items():
        assert words in ends[part]
    found = {part: [r for r in rows if r["part"] == part and "took" not in r] for part in ends}
    assert found["machine"][0]["gpu"] == "none"
    [tests] = found["tests"]
    assert tests["skipped"] > 20 and not tests["passed"] and not tests["failed"]
    assert [row["run"] for row in found["eager"]] == ["Decoder", "KSampler", "VAE Decode"]
    first, compiled = found["compiled"]
    assert first["backend"] == "eager" and first["first_run_seconds"] > 0
    for row in (*found["eager"], *found["choices"], compiled):
        assert row["ratio"] > 0 and len(row["quartiles"]) == 2
    assert compiled["bar"] == 0.75
    assert found["least"][0]["least_seconds_a_step"] > 0
