"""The work that one step sends to a GPU, counted without one: calls, copies, waits, bytes, memory.

Each stage, KSampler and the pipelines of diffusers run at published size on a GPU of shapes without
numbers (simulated_gpu.py). A step is the difference between runs of two lengths, so work that a run
does once does not count.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from .checkpoints import DTYPES, PIXELS

MIB = 2**20
SHOWN = ("linear, matrices", "convolution", "norm", "attention", "elementwise", "layout", "else")
KINDS = {
    "linear, matrices": ("addmm", "mm", "bmm", "baddbmm"),
    "convolution": ("convolution",),
    "norm": ("native_group_norm", "native_layer_norm"),
    "attention": (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
    ),
    "elementwise": ("add", "add_", "sub", "mul", "div", "silu", "gelu", "exp", "pow", "clamp"),
    "layout": ("clone", "cat", "_to_copy", "copy_", "constant_pad_nd", "repeat", "index"),
}
COLUMNS = {
    "stage": "{case}",
    "run": "{run}",
    "calls a step": "{aten:,}",
    **{kind: f"{{{kind.replace(', ', '_')}}}" for kind in SHOWN},
    "copies": "{copies}",
    "waits": "{waits}",
    "GB read and written": "{gb:.1f}",
    "MiB alive": "{alive:,.0f}",
    "MiB that ComfyUI is told": "{told:,.0f}",
}


def measure(gpu: Any, run: Any, fewest: int = 1) -> dict[str, Any]:
    """Return the work of one more step, from runs of `fewest` steps and of one more."""
    counts = []
    for steps in (fewest, fewest + 1):
        gpu.count, gpu.peak = Counter(), gpu.now
        before = gpu.now
        run(steps)
        counts.append(gpu.count)
    step = counts[1] - counts[0]
    row: dict[str, Any] = {name: step[name] for name in ("aten", "copies", "waits")}
    row |= {"gb": step["bytes"] / 1e9, "alive": (gpu.peak - before) / MIB}
    names = {name[5:]: count for name, count in step.items() if name.startswith("aten ")}
    for kind in SHOWN:
        known = KINDS.get(kind, names)
        row[kind.replace(", ", "_")] = sum(names.pop(name, 0) for name in list(known))
    return row


def run(dtype: str = "fp16", pixels: int = 0) -> list[dict]:
    """Return a row for each stage, for KSampler with each decoder, and for each pipeline."""
    from kandinsky22.utils.comfyui.model import forward_memory
    from kandinsky22.utils.comfyui.prediction import kept_memory
    from kandinsky22.utils.comfyui.residents import ACTIVATIONS, transformer_memory

    from .counted_runs import build, decoding, ksampler, pipeline, prior_runs
    from .simulated_gpu import simulated_gpu

    pixels, kind, rows = pixels or PIXELS["full"], DTYPES[dtype], []
    stage_names = {
        "text_to_image": {"Decoder": False, "Img2Img": True},
        "inpaint": {"Inpaint": False},
        "depth": {"ControlNet": False, "ControlNet Img2Img": True},
    }
    torch.set_num_threads(1)  # nothing is computed
    with simulated_gpu() as gpu:
        case = f"{pixels} px, {dtype}"
        told = transformer_memory(kind, 2, 81, 2048, each=ACTIVATIONS) / MIB
        for name, loop in prior_runs(kind).items():
            row = {"case": "Prior", "run": name, **measure(gpu, loop, 2)}
            rows.append(row | ({"told": told} if name == "Prior" else {}))
        for variant, names in stage_names.items():
            model, unet = build(kind, variant)
            told = forward_memory(model, [2, 4, pixels // 8, pixels // 8]) / MIB
            kept = kept_memory(model, 2) / MIB
            for stage, from_picture in names.items():
                case = {"case": f"{stage}, {pixels} px, {dtype}"}
                ours = measure(gpu, decoding(variant, from_picture, model, pixels))
                rows.append(case | {"run": stage, **ours, "told": told + kept})
                theirs = pipeline(variant, from_picture, unet, pixels)
                rows.append(case | {"run": "diffusers", **measure(gpu, theirs)})
            case = {"case": f"{next(iter(names))}, {pixels} px, {dtype}"}
            everyday = decoding(variant, False, model, pixels, ("dpmpp_2m", "karras"))
            row = {"run": f"{next(iter(names))}, dpmpp_2m", **measure(gpu, everyday, 3)}
            rows.append(case | row | {"told": told + kept})
            case["run"] = "KSampler, euler"
            rows.append(case | measure(gpu, ksampler(variant, model, pixels)) | {"told": told})
    return rows
