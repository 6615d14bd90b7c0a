"""Paste the repainted part of a picture into the original."""

import logging
from typing import Any

import torch
import torch.nn.functional as F

from .batches import broadcast, common_batch
from .checks import check_whole_numbers
from .images import images_to_model, resize
from .masks import check_mask
from .sizes import PIXELS_PER_LATENT

log = logging.getLogger("kandinsky22")

MOST_FEATHER = 256  # pixels


def paste_back(original: Any, repainted: Any, mask: Any, feather: int) -> torch.Tensor:
    """Return the original picture, with the repainted one where the mask is white.

    Args:
        original: IMAGE (B, H, W, C).
        repainted: IMAGE, as large as the original, or up to 7 pixels wider and higher at the right
            and below. VAE Decode gives that for a picture that VAE Encode has extended.
        mask: MASK (B, H, W), 1 = repainted. Another size is resized to the original's size.
        feather: over how many pixels outside the mask the two pictures blend.

    Returns:
        IMAGE (B, H, W, 3), or 4 channels if the original has an alpha channel. Outside the mask and
        its feather, it has the original's bits. A batch of 1 serves every item of another.

    Raises:
        ValueError: an input has another shape, sizes do not fit, or batches do not pair up.
    """
    (feather,) = check_whole_numbers(feather=feather)
    if not 0 <= feather <= MOST_FEATHER:
        raise ValueError(f"feather is {feather}; it goes from 0 to {MOST_FEATHER} pixels.")
    pictures, painted, share = (
        images_to_model(original),
        images_to_model(repainted),
        check_mask(mask),
    )
    height, width = pictures.shape[-2:]
    painted = cut_to(painted, height, width)
    if share.shape[-2:] != (height, width):
        size = f"{share.shape[-1]}×{share.shape[-2]}"
        log.warning("Paste Back resizes a mask of %s to %d×%d.", size, width, height)
    share = soften(resize(share, height, width).clamp(0, 1), feather)
    batch = common_batch(original=len(pictures), repainted=len(painted), mask=len(share))
    pictures, painted, share = (
        broadcast(part.to(pictures.device), batch) for part in (pictures, painted, share)
    )
    # A pixel that comes from one picture alone is copied, as arithmetic could change its bits.
    result = torch.where(share < 1, pictures + share * (painted - pictures), painted)
    result = torch.where(share > 0, result, pictures).movedim(1, -1)
    if original.shape[-1] == 4:
        result = torch.cat([result, broadcast(original[..., 3:].to(result), batch)], dim=-1)
    return result.contiguous()


def cut_to(painted: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return (B, 3, H, W) without the pixels that VAE Encode added at the right and below."""
    below, right = painted.shape[-2] - height, painted.shape[-1] - width
    if not (0 <= below < PIXELS_PER_LATENT and 0 <= right < PIXELS_PER_LATENT):
        raise ValueError(
            "Connect to original the picture that went into VAE Encode: the repainted picture is "
            f"{painted.shape[-1]}×{painted.shape[-2]}, and original is {width}×{height}. "
            "Paste Back cuts off up to 7 pixels, and resizes no picture."
        )
    return painted[..., :height, :width]


def soften(mask: torch.Tensor, feather: int) -> torch.Tensor:
    """Add to (B, 1, H, W) a ramp of `feather` pixels outside the mask, down to 0."""
    if feather == 0:
        return mask
    grown = grow(mask, feather // 2)
    blur = feather - feather // 2
    for kernel in ((2 * blur + 1, 1), (1, 2 * blur + 1)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        grown = F.avg_pool2d(grown, kernel, 1, padding, count_include_pad=False)
    return torch.maximum(mask, grown)


def grow(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Grow a mask (B, 1, H, W) by `pixels` on each side."""
    for kernel in ((2 * pixels + 1, 1), (1, 2 * pixels + 1)):
        mask = F.max_pool2d(mask, kernel, 1, (kernel[0] // 2, kernel[1] // 2))
    return mask
