"""Convert pictures from ComfyUI's IMAGE to the model's layout, to 8 bits and to other sizes."""

import torch
import torch.nn.functional as F
from PIL import Image

from .sizes import PIXELS_PER_LATENT, extend_to_latent

CHUNK = 8  # pictures that CLIP and depth estimators take at once, as a batch may be a video


def images_to_model(images: torch.Tensor) -> torch.Tensor:
    """Return ComfyUI's IMAGE (B, H, W, C) in [0, 1] as contiguous float32 (B, 3, H, W) in [0, 1].

    Grey pictures are repeated to three channels, and an alpha channel is dropped. The result is
    contiguous because a channels-last view gives other bits than the pipelines' tensors.
    """
    shape = tuple(getattr(images, "shape", ()))
    if not torch.is_tensor(images) or len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"An IMAGE is (batch, height, width, channels), and not empty: {shape or images!r:.80}."
        )
    channels = shape[-1]
    if channels == 1:
        images = images.expand(*images.shape[:-1], 3)
    elif channels not in (3, 4):
        raise ValueError(f"An IMAGE has 1, 3 or 4 channels, not {channels}.")
    return images[..., :3].movedim(-1, 1).contiguous().float()


def to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """Return (B, 3, H, W) in [0, 1] as 8-bit pictures, for which image processors are defined."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (B, C, H, W) bilinearly. A tensor that has the size is returned unchanged."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def resize_hint(hint: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return an IMAGE (B, H, W, C) as a hint (B, 3, 8h, 8w), for latents of height h and width w.

    If VAE Encode has extended the picture, its hint is extended in the same way. Others are
    resized.
    """
    hint = extend_to_latent(images_to_model(hint), height, width)
    return resize(hint, height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
