"""The pixel judge: reads colours, place, shape and size back from a picture.

It uses no network and knows nothing of how a picture was made. The median of the border is the
background. The pixels that differ from it are the object. Its shape is the template with the best
overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .shapes import AREA, DIRECTIONS, OFFSET, PALETTE, RADIUS, SIZE, cover

MISSING = -2  # no object found: never equal to a label


@dataclass(frozen=True)
class Verdict:
    """The attributes of N pictures; `labels` are in the order of `Scenes.labels`."""

    labels: torch.Tensor  # (N, 5) long, MISSING where there is no object
    mask: torch.Tensor  # (N, H, W) bool
    colour: torch.Tensor  # (N, 3)
    background: torch.Tensor  # (N, 3)
    centre: torch.Tensor  # (N, 2) x, y of the bounding box's middle, in 128ths of the picture
    overlap: torch.Tensor  # (N,) IoU with the best template


def find_object(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mask (N, H, W), object colour and background colour (N, 3) of pictures in [0, 1]."""
    edge = torch.cat(
        [images[..., :3, :].flatten(2), images[..., -3:, :].flatten(2)]
        + [images[..., :, :3].flatten(2), images[..., :, -3:].flatten(2)],
        dim=2,
    )
    background = edge.median(dim=2).values
    offset = images - background[:, :, None, None]
    distance = offset.norm(dim=1)
    far = (
        distance > (0.5 * distance.flatten(1).quantile(0.97, dim=1)).clamp(min=0.15)[:, None, None]
    )
    colours = []
    for picture, inside in zip(images, far, strict=True):
        pixels = picture[:, inside]
        colours.append(pixels.median(dim=1).values if pixels.shape[1] else picture.new_zeros(3))
    colour = torch.stack(colours)
    axis = colour - background
    along = (offset * axis[:, :, None, None]).sum(1)
    along = along / axis.square().sum(1).clamp(min=1e-6)[:, None, None]
    return (along > 0.5) & far.any(2).any(1)[:, None, None], colour, background


def find_box(mask: torch.Tensor) -> torch.Tensor:
    """Return (N, 2) middle x, y of the masks' bounding boxes.

    Single pixels (1 % of a side) do not count.
    """
    size = mask.shape[-1]
    middles = []
    for dim in (1, 2):
        counts = mask.sum(dim).float()  # (N, size)
        solid = counts > 0.02 * size
        position = torch.arange(size)
        first = torch.where(solid, position, size).amin(1)
        last = torch.where(solid, position, -1).amax(1)
        middles.append((first + last + 1) / 2 * (SIZE / size))
    return torch.stack(middles, 1)


def nearest_colour(colour: torch.Tensor) -> torch.Tensor:
    """Return (N,) index of the palette's nearest colour."""
    return torch.cdist(colour, PALETTE).argmin(1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return (N,) intersection over union of boolean masks (N, H, W)."""
    both = (a & b).flatten(1).sum(1)
    return both / (a | b).flatten(1).sum(1).clamp(min=1)


def judge(images: torch.Tensor) -> Verdict:
    """Return what is seen in pictures (N, 3, H, W) in [0, 1]."""
    images = images.float().cpu()
    mask, colour, background = find_object(images)
    centre = find_box(mask)
    size = images.shape[-1]
    area = mask.flatten(1).sum(1) * (SIZE / size) ** 2
    overlaps = []
    for shape in range(3):
        radius = (area / AREA[shape]).sqrt()
        template = cover(torch.full((len(images),), shape), centre, radius, size) > 0.5
        overlaps.append(overlap(mask, template))
    best, shape = torch.stack(overlaps).max(0)
    radius = (area / AREA[shape]).sqrt()
    large = (radius > RADIUS.mean()).long()
    away = (centre - SIZE / 2)[:, None] - DIRECTIONS * OFFSET[large][:, None, None]
    place = away.norm(dim=2).argmin(1)
    labels = torch.stack(
        [shape, nearest_colour(colour), nearest_colour(background), place, large], 1
    )
    labels[(area < 400) | (area > 0.7 * SIZE**2)] = MISSING
    return Verdict(labels, mask, colour, background, centre, best)
