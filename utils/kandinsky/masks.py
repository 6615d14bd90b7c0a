"""Masks: from ComfyUI's MASK, where 1 is repainted, to the part of a latent that is kept."""

import logging

import torch
import torch.nn.functional as F

log = logging.getLogger("kandinsky22")


def keep_from_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The host's MASK (B, H, W), 1 = repaint → what Inpaint keeps, (B, 1, height, width), 1 = keep.

    As the reference does it: cut at 0.5, nearest resize to the latent, then every latent pixel
    beside a repainted one is repainted too (except at the upper right and the lower left).
    """
    shape = tuple(getattr(mask, "shape", ()))
    if not torch.is_tensor(mask) or len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"A MASK is (batch, height, width), and not empty: {shape or mask!r:.80}. Connect one "
            "of some size."
        )
    masks = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    # Nearest picks pixels, so those that it picks are cut: as cutting first, and 64 times fewer.
    small = 1 - (F.interpolate(masks, (height, width), mode="nearest") >= 0.5).float()
    for i in range(len(masks)):
        if small[i].min() == 1 and masks[i].max() >= 0.5:
            log.warning(
                "The mask of item %d is so thin that nothing of it is left at %d×%d latent pixels, "
                "so nothing is repainted. Grow it to 8 pixels or more (Grow Mask).",
                i,
                width,
                height,
            )
    padded = F.pad(small, (1, 1, 1, 1), value=1.0)
    shifts = [(0, 0), (-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)]
    neighbours = [padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in shifts]
    return torch.stack(neighbours).amin(0)


def keep_from_noise_mask(noise_mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The host's `noise_mask`, 1 = denoise, soft edges → (B, 1, height, width), 1 = keep."""
    mask = noise_mask.reshape(-1, 1, *noise_mask.shape[-2:]).float()
    return 1 - F.interpolate(mask, (height, width), mode="bilinear")
