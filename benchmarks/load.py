"""Loading a UNet from disk: our loader and diffusers' `from_pretrained`, on the same files.

Each load has its own process, and the two sides alternate. The file is in the page cache for both.
Memory is what a load adds to the process at its peak, with the pages of the file that it reads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .checkpoints import DTYPES, UNETS, write_module
from .memory import in_own_process, reset_peak, resident
from .pairs import compare
from .report import RATIO

# name → (dtype of the file, dtype in use)
CASES = {"fp32 used as fp16": ("fp32", "fp16"), "fp16": ("fp16", "fp16"), "fp32": ("fp32", "fp32")}
BARS = {"fp32 used as fp16": (1.0, 0.6), "fp16": (1.05, 1.05), "fp32": (1.05, 1.05)}
COLUMNS = {
    "file": "{case}",
    "what": "{what}",
    "ours": "{ours:.2f}",
    "diffusers": "{theirs:.2f}",
    "ratio (quartiles)": RATIO,
    "bar": "≤ {bar}",
}


def write_unet(folder: Path, dtype: torch.dtype, size: str) -> None:
    """Write a published UNet, or one of another size, with random weights."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from kandinsky22.utils.files import architectures

    with init_empty_weights():
        config = architectures.DECODERS["text_to_image"].unet | UNETS[size]
        write_module(folder, UNet2DConditionModel.from_config(config), dtype)


def load(loader: str, folder: Path, dtype: torch.dtype):
    """Load the UNet of a folder on the CPU."""
    from diffusers import UNet2DConditionModel

    if loader == "diffusers":
        return UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    import comfy.ops
    from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
    from kandinsky22.utils.files.weights import build_module

    ops = comfy.ops.disable_weight_init
    return build_module(Kandinsky22UNet.from_config, UNet2DConditionModel, folder, dtype, ops)


def once(loader: str, thin: str, folder: str, dtype: str) -> dict[str, float]:
    """Return the seconds, and the MiB above those before the load. This runs in its own process."""
    load(loader, Path(thin), DTYPES[dtype])  # a first load, so that imports do not count
    before = reset_peak()
    start = time.perf_counter()
    unet = load(loader, Path(folder), DTYPES[dtype])
    seconds = time.perf_counter() - start
    assert {parameter.dtype for parameter in unet.parameters()} == {DTYPES[dtype]}
    return {"seconds": seconds, "MiB": max(resident("VmHWM") - before, 1)}


def run(size: str = "full", rounds: int = 5, cases: Sequence[str] = tuple(CASES)) -> list[dict]:
    """Return two rows for each case: seconds and MiB of both loaders, and their ratio."""
    if size not in UNETS:
        raise SystemExit(f"load writes a UNet of its own, of size {', '.join(UNETS)}.")
    rows = []
    with tempfile.TemporaryDirectory() as work:
        write_unet(Path(work) / "thin", torch.float32, "thin")
        for case in cases:
            stored, used = CASES[case]
            folder = Path(work) / stored
            if not folder.exists():
                write_unet(folder, DTYPES[stored], size)
            found: dict[str, list[dict]] = {"ours": [], "diffusers": []}
            for turn in range(rounds + 1):
                for loader, loads in found.items():
                    paths = str(Path(work) / "thin"), str(folder)
                    loaded = in_own_process("load", loader, *paths, used)
                    if turn:  # the first round brings the file into the page cache
                        loads.append(loaded)
            for what, bar in zip(("seconds", "MiB"), BARS[case], strict=True):
                ours, theirs = ([one[what] for one in loads] for loads in found.values())
                rows.append({"case": case, "what": what, **compare(ours, theirs), "bar": bar})
    return rows
