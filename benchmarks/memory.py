"""The peak memory of a decode: load, two steps, MoVQ. Each run has its own process.

On a CPU, it is the resident memory above that of the imports. On a GPU, it is what torch has
allocated there, in each of ComfyUI's modes, and with caps. A cap is torch's own limit, and ComfyUI
is told of it with --reserve-vram. diffusers offloads whole models with a cap, and layer by layer
for --novram. ComfyUI's --lowvram is only for text encoders since 0.24, and there are none here.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from .checkpoints import PIXELS, checkpoints
from .pairs import compare
from .report import RATIO

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
STEPS = 2
COLUMNS = {
    "case": "{case}",
    "MiB, ours": "{ours:.0f}",
    "MiB, diffusers": "{theirs:.0f}",
    "ratio (quartiles)": RATIO,
    "ours": "{outcomes[ours]}",
    "diffusers": "{outcomes[diffusers]}",
}


def resident(field: str) -> int:
    """Return MiB of this process: VmRSS is the current value, VmHWM the peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) // 1024


def reset_peak() -> int:
    """Start the peaks anew. Return the MiB that are resident now."""
    gc.collect()
    gc.freeze()  # otherwise a collection would go through all that was imported
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return before


def in_own_process(module: str, *arguments: Any) -> dict[str, Any]:
    """Return the result of a benchmark's `once` in its own process."""
    child = [sys.executable, SCRIPT, "once", module, json.dumps(arguments)]
    done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def set_host(mode: str, cap: float) -> None:
    """Set ComfyUI's options before it looks at its device. `cap` is in GiB; 0 is none."""
    import comfy.cli_args

    setattr(comfy.cli_args.args, mode, True)  # there is no option "normal"
    if cap:
        total = torch.cuda.mem_get_info()[1] / 2**30
        torch.cuda.set_per_process_memory_fraction(min(cap / total, 1.0))
        comfy.cli_args.args.reserve_vram = max(total - cap, 0.0)


def load_and_decode(run: str, folder: Path, dtype: str, pixels: int, mode: str, cap: float) -> None:
    from . import decode

    if run == "ours":
        model, vae = decode.load_nodes(folder, dtype)
        width = model.model.diffusion_model.embeds_width
        latents = decode.run_node(model, decode.draw_inputs(width, 1, pixels), STEPS)
        decode.decode_with_node(vae, latents)
        return
    offloads = mode == "novram" or cap > 0
    pipeline = decode.load_pipeline("KandinskyV22Pipeline", folder, dtype, not offloads)
    if mode == "novram":
        pipeline.enable_sequential_cpu_offload()
    elif offloads:
        pipeline.enable_model_cpu_offload()
    inputs = decode.draw_inputs(pipeline.unet.config["encoder_hid_dim"], 1, pixels)
    positive, negative, _ = inputs
    pipeline(positive, negative, pixels, pixels, STEPS, output_type="np")


def once(
    run: str, tiny: str, folder: str, dtype: str, pixels: int, mode: str, cap: float
) -> dict[str, Any]:
    """Return {"outcome": "12.3 s", "mib": …}, or only an outcome. This runs in its own process."""
    set_host(mode, cap)
    # A first run, so that imports do not count.
    load_and_decode(run, Path(tiny), dtype, 64, mode, cap)
    return measure(run, Path(folder), dtype, pixels, mode, cap)


def measure(
    run: str, folder: Path, dtype: str, pixels: int, mode: str, cap: float
) -> dict[str, Any]:
    """Return what `once` returns, measured in this process."""
    before = reset_peak()
    start = time.perf_counter()
    try:
        load_and_decode(run, folder, dtype, pixels, mode, cap)
    except torch.OutOfMemoryError:
        return {"outcome": "out of memory"}
    seconds = time.perf_counter() - start
    mib = resident("VmHWM") - before
    if torch.cuda.is_available():
        mib = torch.cuda.max_memory_allocated() / 2**20
    return {"outcome": f"{seconds:.1f} s", "mib": mib}


def run(
    size: str = "medium",
    dtype: str = "fp32",
    pixels: int = 0,
    rounds: int = 3,
    modes: Sequence[str] = ("normal",),
    caps: Sequence[float] = (0,),
) -> list[dict]:
    """Return a row for each mode and cap (GiB; 0 is none)."""
    pixels, rows = pixels or PIXELS[size], []
    with (
        checkpoints(size, "text_to_image") as folders,
        checkpoints("thin", "text_to_image") as tiny,
    ):
        paths = [str(parts["text_to_image"]) for parts in (tiny, folders)]
        for mode, cap in product(modes, caps):
            found: dict[str, list[dict]] = {"ours": [], "diffusers": []}
            for name in list(found) * rounds:
                one = in_own_process("memory", name, *paths, dtype, pixels, mode, cap)
                found[name].append(one)
            limit = f", capped at {cap:g} GiB" if cap else ""
            row: dict[str, Any] = {"case": f"{size}, {pixels} px, {dtype}, {mode}{limit}"}
            row["outcomes"] = {name: runs[-1]["outcome"] for name, runs in found.items()}
            mib = {name: [one.get("mib") for one in runs] for name, runs in found.items()}
            if all(mib["ours"] + mib["diffusers"]):
                row |= compare(mib["ours"], mib["diffusers"])
            rows.append(row)
    return rows
