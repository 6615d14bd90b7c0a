"""Load diffusers' pipelines from the same folders by its own code, to compare with."""

import functools
from pathlib import Path

import diffusers
import torch


@functools.cache
def pipeline(name: str, folder: Path):
    loaded = getattr(diffusers, name).from_pretrained(folder, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Return one generator for each item, as Decoder counts."""
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def max_diff(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return (a - b).abs().max().item()
