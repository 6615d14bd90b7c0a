"""The three grids of Kandinsky 2.2: pixels, MoVQ latents (1/8), the UNet's deepest level (1/64)."""

import torch
import torch.nn.functional as F

PIXELS_PER_LATENT = 8


def extend_to_latent(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Extend (B, C, H, W) to the pixels of a latent of height × width, if its size rounds up to it.

    VAE Encode has extended the picture in the same way, so both stay aligned. A tensor of any other
    size is returned unchanged.
    """
    grid = PIXELS_PER_LATENT
    if (-(-pixels.shape[-2] // grid), -(-pixels.shape[-1] // grid)) == (height, width):
        return pad_to_grid(pixels, grid)
    return pixels


def pad_to_grid(latents: torch.Tensor, grid: int, mode: str = "replicate") -> torch.Tensor:
    """Extend (B, C, h, w) to the right and below, by its edge, to multiples of `grid`.

    The UNet halves its input log2(grid) times and cannot undo that for other sizes (diffusers
    crashes there). The caller cuts the result back to h × w.
    """
    right, below = -latents.shape[-1] % grid, -latents.shape[-2] % grid
    if right == below == 0:
        return latents
    return F.pad(latents, (0, right, 0, below), mode=mode)
