"""Masks: from ComfyUI's MASK, where 1 is repainted, to the part of a latent that is kept."""

import logging
from typing import Any

import torch
import torch.nn.functional as F

from .sizes import extend_to_latent

log = logging.getLogger("kandinsky22")


def check_mask(mask: Any) -> torch.Tensor:
    """Return a MASK (B, H, W), (H, W) or (B, 1, H, W) of ComfyUI's nodes as (B, 1, H, W).

    Raises:
        ValueError: it has another shape, or is empty.
    """
    shape = tuple(getattr(mask, "shape", ()))
    known = len(shape) in (2, 3) or (len(shape) == 4 and shape[1] == 1)
    if not torch.is_tensor(mask) or not known or not mask.numel():
        raise ValueError(
            f"A MASK is (batch, height, width), and not empty: {shape or mask!r:.80}. Connect one "
            "of some size; Convert Image to Mask makes a MASK of a picture."
        )
    return mask.reshape(-1, 1, *shape[-2:]).float()


def keep_from_mask(mask: Any, height: int, width: int) -> torch.Tensor:
    """Return what Inpaint keeps of a picture, (B, 1, height, width), 1 = keep.

    `mask` is a MASK (B, H, W), 1 = repaint.

    As in diffusers, the mask is cut at 0.5 and resized to the latent (nearest). Then every latent
    pixel beside a repainted one is repainted, too, except at the upper right and the lower left. A
    mask whose size rounds up to the latent's is extended first, as VAE Encode extends its picture.
    """
    masks = extend_to_latent(check_mask(mask), height, width)
    # A nearest resize only picks pixels. So cutting after it gives the same result, with 64 times
    # fewer pixels.
    small = 1 - (F.interpolate(masks, (height, width), mode="nearest") >= 0.5).float()
    warn_of_nothing_to_repaint(masks, small)
    padded = F.pad(small, (1, 1, 1, 1), value=1.0)
    shifts = [(0, 0), (-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)]
    neighbours = [padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in shifts]
    return torch.stack(neighbours).amin(0)


def warn_of_nothing_to_repaint(masks: torch.Tensor, small: torch.Tensor) -> None:
    """Log a warning for each mask (B, 1, H, W) of which nothing is left in `small`."""
    height, width = small.shape[-2:]
    for i in range(len(masks)):
        if small[i].min() < 1:
            continue
        if masks[i].max() >= 0.5:
            log.warning(
                "The mask of item %d is so thin that nothing of it is left at %d×%d latent pixels, "
                "so nothing is repainted. Grow it to 8 pixels or more (Grow Mask).",
                i,
                width,
                height,
            )
        else:
            log.warning(
                "The mask of item %d is empty, so nothing is repainted. Paint it white where the "
                "picture is to change. Load Image gives an empty mask for a picture without "
                "transparency: open its Mask Editor, or connect another mask.",
                i,
            )


def keep_from_noise_mask(noise_mask: Any, height: int, width: int) -> torch.Tensor:
    """Return what stays, (B, 1, height, width), 1 = keep.

    `noise_mask` is ComfyUI's, 1 = denoise, with soft edges.
    """
    mask = extend_to_latent(check_mask(noise_mask), height, width)
    return 1 - F.interpolate(mask, (height, width), mode="bilinear")
