"""The inputs of the scores and the sample grids: labels, captions and prompts."""

from __future__ import annotations

import random

import torch

from .captions import write_sentence
from .judge import judge
from .shapes import COLOURS, SHAPES, SIZE, Scenes, sample_labels
from .training import seeded

TEST_SEED = 90_210  # training draws with small seeds


def share(hits: torch.Tensor) -> float:
    """Return the fraction of True."""
    return hits.float().mean().item()


def describe(labels: torch.Tensor, seed: int) -> tuple[list[str], torch.Tensor]:
    """Return captions for labels, and their meaning (N, 5), OPEN where a caption leaves it open."""
    rows = enumerate(labels.tolist())
    written = [write_sentence(row, random.Random(seed + i)) for i, row in rows]
    return [text for text, _ in written], torch.tensor([meant for _, meant in written])


def test_labels(n: int, salt: int) -> torch.Tensor:
    """Return (n, 5) labels that training has not seen in this order."""
    return sample_labels(n, seeded(TEST_SEED + salt))


def two_colours(labels: torch.Tensor, shift: int) -> torch.Tensor:
    """Return labels with other colours of shape and background: each index moves on by `shift`."""
    other = labels.clone()
    other[:, 1:3] = (labels[:, 1:3] + shift) % len(COLOURS)
    return other


def say_colours(labels: torch.Tensor) -> list[str]:
    """Return prompts that name the shape and both colours, and neither the place nor the size."""
    return [
        f"a {COLOURS[c]} {SHAPES[s]} on a {COLOURS[b]} background"
        for s, c, b in labels[:, :3].tolist()
    ]


def colours_right(pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (N,) whether both colours are those of the labels."""
    return (judge(pictures).labels[:, 1:3] == labels[:, 1:3]).all(1)


def next_object(labels: torch.Tensor) -> torch.Tensor:
    """Return labels with another shape, and another colour that is not the background's."""
    other = labels.clone()
    other[:, 0] = (labels[:, 0] + 1) % len(SHAPES)
    colour = (labels[:, 1] + 1) % len(COLOURS)
    other[:, 1] = torch.where(colour == labels[:, 2], (colour + 1) % len(COLOURS), colour)
    return other


def say_everything(labels: torch.Tensor) -> list[str]:
    """Return prompts that name everything, also the shape."""
    rows = enumerate(labels.tolist())
    texts = [(write_sentence(row, random.Random(i), omit=0)[0], row[0]) for i, row in rows]
    return [text.replace("shape", SHAPES[shape]) for text, shape in texts]


def object_boxes(scenes: Scenes) -> torch.Tensor:
    """Return (N, 128, 128) bool: a box with a margin around every object."""
    line = torch.arange(SIZE) + 0.5
    half = (scenes.radius * 1.1 + 8)[:, None]
    across = (line - scenes.centre[:, :1]).abs() < half
    down = (line - scenes.centre[:, 1:]).abs() < half
    return down[:, :, None] & across[:, None, :]
