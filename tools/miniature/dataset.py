"""The stored training set: pictures and their scenes, drawn once and kept as 8-bit pixels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from .shapes import Scenes, draw, sample_scenes
from .training import load_stored, save_atomic, seeded

COUNT = 12_288
BETWEEN = 0.25  # the share of pictures whose colours, place and size no word names


def make_dataset(work: Path, seed: int, count: int = COUNT) -> None:
    """Draw `count` pictures into `work/pictures.pt`, unless they are there."""
    path = work / "pictures.pt"
    if path.exists():
        return
    scenes = sample_scenes(count, seeded(seed), BETWEEN)
    pictures = torch.empty(count, 3, 128, 128, dtype=torch.uint8)
    for start in tqdm(range(0, count, 256), desc="pictures", mininterval=10):
        part = slice(start, start + 256)
        pictures[part] = (draw(scenes[part]) * 255).round().byte()
    save_atomic({"pictures": pictures, "scenes": asdict(scenes)}, path)


def load_dataset(work: Path) -> tuple[torch.Tensor, Scenes]:
    """Load pictures (N, 3, 128, 128) uint8, and their scenes."""
    stored = load_stored(work / "pictures.pt", "data")
    return stored["pictures"], Scenes(**stored["scenes"])


def to_model_range(pictures: torch.Tensor) -> torch.Tensor:
    """Convert 8-bit pixels to [-1, 1], the range of MoVQ."""
    return pictures.float() / 127.5 - 1


def find_partners(scenes: Scenes, seed: int, count: int = 8) -> torch.Tensor:
    """Return (count, N): pictures with the same two colours, or itself if these are unnamed."""
    pair = scenes.labels[:, 1] * 6 + scenes.labels[:, 2]
    partners = torch.arange(len(pair)).repeat(count, 1)
    generator = seeded(seed)
    for value in pair[pair >= 0].unique():
        members = (pair == value).nonzero()[:, 0]
        for row in partners:
            row[members] = members[torch.randperm(len(members), generator=generator)]
    return partners


def choose_partners(partners, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return (B,) one of the partners of each picture in `index`."""
    return partners[torch.randint(0, len(partners), (len(index),), generator=generator), index]
