"""Between the host's conventions and the model's: layout, value range, batches, masks, noise."""

import logging

import torch
import torch.nn.functional as F
from PIL import Image

log = logging.getLogger("kandinsky22")

CHUNK = 8  # pictures that CLIP and depth estimators look at in one go: a batch may be a video


def images_to_model(images: torch.Tensor) -> torch.Tensor:
    """The host's IMAGE (B, H, W, C) in [0, 1] → contiguous float32 (B, 3, H, W), same range.

    Grey pictures are repeated to three channels and an alpha channel is dropped. Contiguous,
    because a channels-last view gives other bits than the pipelines' tensors.
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
    """(B, 3, H, W) in [0, 1] → 8-bit pictures, which is what image processors are defined on."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear, (B, C, H, W) → (B, C, height, width); the same tensor where nothing changes."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


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
                *(i, width, height),
            )
    padded = F.pad(small, (1, 1, 1, 1), value=1.0)
    shifts = [(0, 0), (-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)]
    neighbours = [padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in shifts]
    return torch.stack(neighbours).amin(0)


def keep_from_noise_mask(noise_mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The host's `noise_mask`, 1 = denoise, soft edges → (B, 1, height, width), 1 = keep."""
    mask = noise_mask.reshape(-1, 1, *noise_mask.shape[-2:]).float()
    return 1 - F.interpolate(mask, (height, width), mode="bilinear")


def common_batch(**batches: int) -> int:
    """The batch size that all named values share, a batch of 1 fitting any.

    Raises:
        ValueError: two batches differ and neither is 1; names both and their sizes.
    """
    empty = [name for name, size in batches.items() if size == 0]
    if empty:
        raise ValueError(f"{empty[0]} is an empty batch. At least one item is needed.")
    real = {name: size for name, size in batches.items() if size != 1}
    if len(set(real.values())) > 1:
        sizes = ", ".join(f"{name} has {size}" for name, size in real.items())
        raise ValueError(
            f"Batches do not pair up: {sizes}. Give them equal batches, or a batch of 1, "
            "which is used for every item."
        )
    return next(iter(real.values()), 1)


def broadcast(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat a batch of 1 to `batch`; a tensor that has that batch is returned as it is."""
    if tensor.shape[0] == batch:
        return tensor
    return tensor.expand(batch, *tensor.shape[1:]).contiguous()


def item_generators(seed: int, indices: list[int]) -> list[torch.Generator]:
    """One CPU generator an item, seeded (seed + index) modulo 2**64.

    So an item of a batch can be made again alone, and its noise is the same on every device.
    """
    return [torch.Generator("cpu").manual_seed((seed + index) % 2**64) for index in indices]


def draw_noise(shape: tuple[int, ...], generators: list[torch.Generator]) -> torch.Tensor:
    """Float32 noise of `shape` on the CPU; item i is one draw from generator i."""
    return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators])
