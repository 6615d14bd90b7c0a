"""In one process, this pack and other packs change nothing of one another.

The process is compared with one without this pack, in which the same libraries do the same by
themselves: see helpers/comfyui_process.py.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.checkout import HOST, PACK

IDLE = "NODE_CLASS_MAPPINGS = {}\n"

# Packs that speed up, count or log do this: every call goes through their functions. Each function
# leaves a file when it is first called.
PATCHING = """
import functools
from pathlib import Path

import comfy.model_management
import comfy.ops
import torch

NODE_CLASS_MAPPINGS = {}


def wrap(owner, name):
    original = getattr(owner, name)
    called = f"called {getattr(owner, '__qualname__', owner.__name__)}.{name}"

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        Path(__file__).with_name(called).touch()
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)


wrap(torch.nn.Linear, "forward")
wrap(torch.nn.Conv2d, "_conv_forward")
wrap(torch.nn.functional, "scaled_dot_product_attention")
wrap(comfy.model_management, "load_models_gpu")
wrap(comfy.ops.disable_weight_init.Linear, "forward")
"""


def write_pack(folder: Path, code: str) -> Path:
    folder.mkdir()
    (folder / "__init__.py").write_text(code)
    (folder / "pyproject.toml").write_text('[project]\nname = "neighbour"\nversion = "1"\n')
    return folder


def report(kind: str, folder: Path, *packs: Path) -> dict:
    script = PACK / "tests" / "helpers" / "comfyui_process.py"
    done = subprocess.run(
        [HOST["python"], script, kind, folder, *packs],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Reports of this pack alone, of its libraries alone, and of both with a pack that patches."""
    folder = tmp_path_factory.mktemp("processes")
    idle, patching = write_pack(folder / "idle", IDLE), write_pack(folder / "patches", PATCHING)
    jobs = {"ours": ("ours",), "theirs": ("theirs", idle), "beside": ("ours", patching)}
    with ThreadPoolExecutor(2) as pool:
        made = {
            name: pool.submit(report, kind, folder / name, *packs)
            for name, (kind, *packs) in jobs.items()
        }
        return {name: job.result() for name, job in made.items()} | {"patches": patching}


@pytest.mark.parametrize("phase", ["imported", "ran"])
def test_nothing_else_has_changed(processes, phase):
    ours, theirs = (set(processes[kind][phase]) for kind in ("ours", "theirs"))
    assert ours - theirs == {"logger kandinsky22"}


def test_a_change_would_be_seen(processes):
    patched = {
        "torch.nn.modules.linear.Linear.forward",
        "torch.nn.functional.scaled_dot_product_attention",
        "comfy.model_management.load_models_gpu",
    }
    assert patched <= set(processes["beside"]["imported"])
    assert not patched & set(processes["ours"]["imported"])


def test_a_neighbour_that_patches_changes_no_bit(processes):
    called = {path.name.split()[1] for path in processes["patches"].glob("called *")}
    assert called == {
        "Linear.forward",
        "disable_weight_init.Linear.forward",
        "Conv2d._conv_forward",
        "torch.nn.functional.scaled_dot_product_attention",
        "comfy.model_management.load_models_gpu",
    }
    assert len(processes["ours"]["made"]) == 3
    assert processes["beside"]["made"] == processes["ours"]["made"]
