"""What the Optimize node's choices gain: calls of one UNet, each beside the default, in turns.

A call is what a guided step makes of one picture: a batch of two. The weights are random; times do
not depend on them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from .load import SMALL, write_unet

CHOICES = {
    "sdpa": ("sdpa", False),
    "host": ("host", False),
    "plain": ("plain", False),
    "sdpa, channels last": ("sdpa", True),
}


def make_model(folder: Path, small: bool, dtype: str):
    from kandinsky22.utils.native_model import Settings, build_model
    from kandinsky22.utils.published import UNETS
    from kandinsky22.utils.stored import weight_files

    write_unet(folder, torch.float32, small)
    published = UNETS["text_to_image"]
    settings = Settings(published["unet"] | (SMALL if small else {}), published["scheduler"])
    return build_model(settings, weight_files(folder), dtype, disable_dynamic=False)


def time_call(model, pixels: int, calls: int) -> float:
    """Seconds for a call; the host has loaded the MODEL before the clock starts."""
    import comfy.model_management
    from kandinsky22.utils.prediction import prediction

    comfy.model_management.load_models_gpu([model])
    predict, side = prediction(model), pixels // 8
    latents = torch.randn(2, 4, side, side, device=model.load_device)
    embeds = torch.randn(2, model.model.diffusion_model.embeds_width, device=model.load_device)
    predict(latents, torch.tensor(500), embeds)
    comfy.model_management.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        predict(latents, torch.tensor(500), embeds)
    comfy.model_management.synchronize()
    return (time.perf_counter() - start) / calls


@torch.inference_mode()
def run(rounds: int, small: bool, pixels: int = 512, dtype: str = "default", calls: int = 2):
    """One row a choice: median seconds, and the ratio to the default with its spread."""
    from kandinsky22.utils.optimizations import optimize

    with tempfile.TemporaryDirectory() as work:
        model = make_model(Path(work), small, dtype)
        models = {name: optimize(model, *choice) for name, choice in CHOICES.items()}
        found: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, choice in models.items():
                found[name].append(time_call(choice, pixels, calls))
    rows = []
    for name, seconds in found.items():
        ratios = sorted(a / b for a, b in zip(seconds, found["sdpa"], strict=True))
        spread = [round(ratios[0], 3), round(ratios[-1], 3)]
        rows.append(
            {
                "choice": name,
                "seconds": round(median(seconds), 4),
                "ratio": round(median(ratios), 3),
                "spread": spread,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| choice | s a call | ratio (spread) |", "|---|---|---|"]
    for row in rows:
        low, high = row["spread"]
        ratio = f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"
        lines.append(f"| {row['choice']} | {row['seconds']:.4f} | {ratio} |")
    return "\n".join(lines)
