"""Loading a UNet from disk: our loader against diffusers' `from_pretrained`, on the same files.

Each load has a process of its own, one after the other in turns; the file is in the page cache for
both. Memory is what a load adds to the process at its peak, file pages that it touches included.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# name → (type of the file, type that it is used in)
CASES = {"fp32 used as fp16": ("fp32", "fp16"), "fp16": ("fp16", "fp16"), "fp32": ("fp32", "fp32")}
BARS = {"fp32 used as fp16": (1.0, 0.6), "fp16": (1.05, 1.05), "fp32": (1.05, 1.05)}
SMALL = dict(block_out_channels=(64, 128, 192, 256), layers_per_block=1)  # 53 M parameters


def write_unet(folder: Path, dtype: torch.dtype, small: bool) -> None:
    """A published UNet with random weights, as diffusers saves it."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from kandinsky22.utils.published import UNETS
    from safetensors.torch import save_file

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(
            UNETS["text_to_image"]["unet"] | (SMALL if small else {})
        )
    unet.save_config(folder)
    weights = {
        name: torch.empty(tensor.shape, dtype=dtype).normal_(0, 0.02)
        for name, tensor in unet.state_dict().items()
    }
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def load(loader: str, folder: Path, dtype: torch.dtype):
    """The UNet of a folder, on the CPU."""
    if loader == "diffusers":
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    import comfy.ops
    from kandinsky22.utils.native_unet import Kandinsky22UNet
    from kandinsky22.utils.weights import build_module

    return build_module(Kandinsky22UNet.from_config, folder, dtype, comfy.ops.disable_weight_init)


def memory(field: str) -> int:
    """MiB of this process: VmRSS is now, VmHWM the most so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) // 1024


def load_once(loader: str, folder: Path, dtype: str) -> dict[str, float]:
    """For a process of its own: seconds, and MiB above what it had before."""
    load(loader, tiny_of(folder), DTYPES[dtype])  # imports are not loading
    gc.collect()
    gc.freeze()  # a collection is as long as all that has been imported, and not of the loader
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # from here on counts VmHWM
    start = time.perf_counter()
    unet = load(loader, folder, DTYPES[dtype])
    seconds = time.perf_counter() - start
    assert {p.dtype for p in unet.parameters()} == {DTYPES[dtype]}
    return {"seconds": seconds, "mib": memory("VmHWM") - before}


def tiny_of(folder: Path) -> Path:
    return folder.parent / "tiny"


def run(rounds: int, small: bool, cases=tuple(CASES)) -> list[dict]:
    """One row a case: medians of both loaders, and their ratios with the least and the most."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "tiny").mkdir()
        write_unet(Path(work) / "tiny", torch.float32, small=True)
        for case in cases:
            stored, used = CASES[case]
            folder = Path(work) / stored
            if not folder.exists():
                folder.mkdir()
                write_unet(folder, DTYPES[stored], small)
            found: dict[str, list[dict]] = {"ours": [], "diffusers": []}
            for turn in range(rounds + 1):
                for loader in found:
                    child = [sys.executable, SCRIPT, "load-once", loader, folder, used]
                    output = subprocess.run(child, check=True, capture_output=True, text=True)
                    if turn:  # the first brings the file into the page cache
                        found[loader].append(json.loads(output.stdout.splitlines()[-1]))
            row = {"case": case}
            for what, bar in zip(("seconds", "mib"), BARS[case], strict=True):
                ours, theirs = ([one[what] for one in found[name]] for name in found)
                ratios = sorted(
                    a / max(b, 1) if what == "mib" else a / b
                    for a, b in zip(ours, theirs, strict=True)
                )
                row[what] = {
                    "ours": round(median(ours), 3),
                    "diffusers": round(median(theirs), 3),
                    "ratio": round(median(ratios), 3),
                    "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
                    "bar": bar,
                }
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| file | s, ours | s, diffusers | ratio (spread) | bar | MiB, ours | MiB, diffusers "
        "| ratio (spread) | bar |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["case"]]
        for what in ("seconds", "mib"):
            part = row[what]
            low, high = part["spread"]
            cells += [f"{part['ours']:.2f}", f"{part['diffusers']:.2f}"]
            cells += [f"{part['ratio']:.2f} ({low:.2f}–{high:.2f})", f"≤ {part['bar']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
