"""What `scripts/device_check.py` measures: parts that share one folder of random weights.

A part is a generator of rows, and each row is written before the next one is measured. A part that
the machine cannot do raises RuntimeError.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfyui_version
import torch

from scripts.host import Host

from . import decode, memory, optimize, report, roofline
from .checkpoints import DTYPES, PIXELS, read_config, write_decoder
from .pairs import compare, finish, in_turns

ROOT = Path(__file__).parents[1]
DTYPE = "fp16" if torch.cuda.is_available() else "fp32"  # a CPU computes in fp16 very slowly
STEPS, ROUNDS = 10, 3
# Bars: a stage against diffusers, a compiled stage against diffusers in eager mode, and the time of
# a step over the least possible.
EAGER, COMPILED, OVER_LEAST = 1.0, 0.75, 1.5
Rows = Iterator[dict[str, Any]]


def machine(folder: Path, size: str) -> Rows:
    """Describe the machine and the versions of its libraries."""
    yield report.describe_machine(comfyui_version.__version__)


def weights(folder: Path, size: str) -> Rows:
    """Write the decoder that all later parts load."""
    start = time.perf_counter()
    write_decoder(folder, size, dtype=DTYPES[DTYPE])
    yield {"size": size, "dtype": DTYPE, "seconds": round(time.perf_counter() - start, 1)}


def tests(folder: Path, size: str) -> Rows:
    """Run tests/gpu, which writes its own tiny models."""
    import folder_paths
    import pytest

    comfyui = Path(folder_paths.base_path)
    here = Host(Path(sys.executable), comfyui, comfyui_version.__version__)
    os.environ["KANDINSKY22_HOST"] = here.to_json()  # for tests/conftest.py
    outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    class Outcomes:
        def pytest_runtest_logreport(self, report) -> None:
            if report.when == "call" or not report.passed:
                outcomes[report.outcome].append(report.nodeid)

    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    code = pytest.main([*options, str(ROOT / "tests" / "gpu")], plugins=[Outcomes()])
    counts = {outcome: len(names) for outcome, names in outcomes.items()}
    yield {"exit": int(code), **counts, "failures": outcomes["failed"]}
    if code:
        raise RuntimeError(f"pytest ended with {int(code)}; log.txt has what it printed.")


def eager(folder: Path, size: str) -> Rows:
    """Measure Decoder, KSampler and VAE Decode against diffusers, without dynamic memory."""
    bars = {"bar": EAGER, "bar_over_least": OVER_LEAST}
    yield from (row | bars for row in decode.measure(*decoding(folder, size)))


def decoding(folder: Path, size: str) -> tuple:
    return folder, DTYPE, PIXELS[size], 1, STEPS, ROUNDS


def eager_with_dynamic_memory(folder: Path, size: str) -> Rows:
    """Measure the same with ComfyUI's dynamic memory, which main.py starts on NVIDIA GPUs."""
    import comfy_aimdo.control

    if comfy.model_management.get_torch_device().type != "cuda":
        raise RuntimeError("Dynamic memory needs an NVIDIA GPU, and ComfyUI uses none here.")
    comfy_aimdo.control.init()
    devices = comfy.model_management.get_all_torch_devices()
    if not comfy_aimdo.control.init_devices((device.index, 0) for device in devices):
        raise RuntimeError("comfy-aimdo did not start, so there is no dynamic memory here.")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
    yield from eager(folder, size)


def choices(folder: Path, size: str) -> Rows:
    """Measure each choice of Optimize against its default."""
    yield from optimize.measure(folder, DTYPE, PIXELS[size], ROUNDS, STEPS)


def compiled(folder: Path, size: str) -> Rows:
    """Measure Decoder after TorchCompileModel against diffusers' pipeline in eager mode."""
    backend = "inductor" if torch.cuda.is_available() else "eager"  # quick, where a GPU is missing
    found = decode.contestants(*decoding(folder, size)[:-1], compile=backend)
    runs = {name: found[name] for name in ("Decoder, compiled", "diffusers")}
    start = time.perf_counter()
    runs["Decoder, compiled"]()
    finish()
    yield {"backend": backend, "first_run_seconds": round(time.perf_counter() - start, 1)}
    times = in_turns(runs, ROUNDS)
    yield compare(times["Decoder, compiled"], times["diffusers"]) | {"bar": COMPILED}


def in_gib(gib: float, run: str) -> Callable[[Path, str], Rows]:
    """Return a part: the peak memory of load, two steps and MoVQ with `gib` GiB for PyTorch."""

    def part(folder: Path, size: str) -> Rows:
        if not torch.cuda.is_available():
            raise RuntimeError("A limit of a GPU's memory needs a GPU, and there is none here.")
        memory.set_host("normal", gib)
        yield memory.measure(run, folder, DTYPE, PIXELS[size], "normal", gib)

    return part


ours_in_6_gib, diffusers_in_6_gib = in_gib(6, "ours"), in_gib(6, "diffusers")
ours_in_4_gib, diffusers_in_4_gib = in_gib(4, "ours"), in_gib(4, "diffusers")


def least(folder: Path, size: str) -> Rows:
    """Measure what the device does at best, and the least time of a UNet step that follows."""
    rates = roofline.measure_device(DTYPES[DTYPE])
    work = roofline.unet_work(read_config(folder / "unet"), PIXELS[size], 2, DTYPES[DTYPE])
    yield rates | {"least_seconds_a_step": roofline.least_seconds(work, rates)}
