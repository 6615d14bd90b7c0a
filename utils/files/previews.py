"""The colours of MoVQ latents: a linear map to RGB, for previews while sampling.

Every MoVQ has its own latents, so each folder keeps its own map, in one small file.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import VQModel

from ..kandinsky.latents import CHANNELS
from ..kandinsky.sizes import PIXELS_PER_LATENT

FILE = "movq/latent_rgb_factors.json"


def draw_colour_fields(count: int = 24, size: int = 128, seed: int = 0) -> torch.Tensor:
    """Return pictures (N, 3, size, size) in [-1, 1] with coarse to fine fields of random colours.

    One half has soft edges, and the other half has hard ones.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for i in range(count):
        cells = torch.rand(1, 3, *[2 ** (1 + i // 2 % 4)] * 2, generator=generator) * 2 - 1
        mode = "bicubic" if i % 2 else "nearest"
        pictures.append(F.interpolate(cells, (size, size), mode=mode).clamp(-1, 1))
    return torch.cat(pictures)


def fit_factors(latents: torch.Tensor, pictures: torch.Tensor) -> tuple[dict[str, Any], float]:
    """Fit the least-squares map of latents (N, 4, h, w) to pictures (N, 3, 8h, 8w).

    Returns:
        The map, with the names of ComfyUI's latent formats, and the share of the colours' variance
        that it explains.
    """
    x = latents.movedim(1, -1).reshape(-1, latents.shape[1])
    y = F.avg_pool2d(pictures, PIXELS_PER_LATENT).movedim(1, -1).reshape(-1, 3)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    solution = torch.linalg.lstsq(x.double(), y.double()).solution
    explained = 1 - (y - x @ solution.float()).square().sum() / (y - y.mean(0)).square().sum()
    factors = [[round(value, 4) for value in row] for row in solution.tolist()]
    return (
        {"latent_rgb_factors": factors[:-1], "latent_rgb_factors_bias": factors[-1]},
        explained.item(),
    )


@torch.inference_mode()
def fit_preview(folder: Path) -> float:
    """Fit a decoder folder's map and write it there. Return the share of variance explained."""
    movq: Any = VQModel.from_pretrained(folder / "movq", use_safetensors=True)
    pictures = draw_colour_fields()
    latents = torch.cat([movq.encode(picture[None].float()).latents for picture in pictures])
    factors, explained = fit_factors(latents, pictures)
    (folder / FILE).write_text(json.dumps(factors) + "\n", encoding="utf-8")
    return explained


def fit_missing_preview(folder: Path) -> None:
    """Give a folder with a MoVQ its map, if it has none and can be written to."""
    if (folder / "movq").is_dir() and not (folder / FILE).exists():
        if os.access(folder / "movq", os.W_OK):
            fit_preview(folder)


def read_preview(folder: Path) -> dict[str, Any]:
    """Return a decoder folder's map, empty if it has none. Raise ValueError if it is damaged."""
    if not (folder / FILE).exists():
        return {}
    try:
        factors = json.loads((folder / FILE).read_text(encoding="utf-8"))
        rows = [*factors["latent_rgb_factors"], factors["latent_rgb_factors_bias"]]
        if torch.tensor(rows).shape == (CHANNELS + 1, 3):
            return factors
    except (ValueError, TypeError, LookupError):
        pass
    raise ValueError(
        f"{folder / FILE} is not a map of {CHANNELS} latent channels to colours. Delete it, or "
        "make it again with scripts/fit_preview.py."
    )
