"""The effect of the Optimize node's choices: calls of one UNet, each alternating with the default.

A call is that of a guided step for one picture: a batch of two.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .checkpoints import PIXELS, checkpoints
from .decode import load_nodes
from .pairs import compare, in_turns
from .report import RATIO

CHOICES = {
    "sdpa": ("sdpa", False),
    "host": ("host", False),
    "plain": ("plain", False),
    "sdpa, channels last": ("sdpa", True),
}
COLUMNS = {
    "choice": "{choice}",
    "s": "{ours:.4f}",
    "s, sdpa": "{theirs:.4f}",
    "ratio (quartiles)": RATIO,
}


def caller(model: Any, pixels: int, calls: int) -> Callable:
    """Return a function that calls the UNet of a loaded MODEL."""
    from kandinsky22.utils.comfyui.model_options import wrapped_options
    from kandinsky22.utils.comfyui.prediction import prediction

    predict, side = prediction(model, wrapped_options(model)), pixels // 8
    latents = torch.randn(2, 4, side, side, device=model.load_device)
    embeds = torch.randn(2, model.model.diffusion_model.embeds_width, device=model.load_device)

    def run():
        for _ in range(calls):
            predict(latents, torch.tensor(500), embeds)

    return run


def run(
    size: str = "medium", dtype: str = "default", pixels: int = 0, rounds: int = 5, calls: int = 5
) -> list[dict]:
    """Return one row for each choice: seconds of `calls` calls, and the ratio to the default."""
    with checkpoints(size, "text_to_image") as folders:
        return measure(folders["text_to_image"], dtype, pixels or PIXELS[size], rounds, calls)


@torch.inference_mode()
def measure(folder: Path, dtype: str, pixels: int, rounds: int, calls: int) -> list[dict]:
    import comfy.model_management
    from kandinsky22.utils.comfyui.optimize import optimize

    model, _ = load_nodes(folder, dtype)
    models = {name: optimize(model, *choice) for name, choice in CHOICES.items()}
    runs = {name: caller(one, pixels, calls) for name, one in models.items()}

    def load(name: str) -> None:  # this applies the choice's memory format
        comfy.model_management.load_models_gpu([models[name]])
        caller(models[name], 64, 1)()

    times = in_turns(runs, rounds, before=load)
    return [{"choice": name, **compare(times[name], times["sdpa"])} for name in CHOICES]
