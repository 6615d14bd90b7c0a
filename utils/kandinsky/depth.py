"""Depth hints: pictures → depth maps, as transformers' depth-estimation pipeline makes them."""

from typing import Any

import torch

from .images import CHUNK, to_pictures

SMALLEST = 32  # pixels on a side; what the coarsest of the families can divide


def estimate_depth(
    image_processor: Any,
    model: Any,
    images: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] → depth maps (B, H, W), each from 0 (far) to 1 (near).

    Each map is stretched to the full range on its own and cut to 8 bits, as the reference does.
    A picture with one depth everywhere gives zeros.
    """
    if min(images.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"A picture of {images.shape[-1]}×{images.shape[-2]} pixels is too small to see depth "
            f"in: {SMALLEST} on each side are needed."
        )
    height, width = images.shape[-2:]
    maps = []
    for part in images.split(CHUNK):
        values = image_processor(images=to_pictures(part), return_tensors="pt").pixel_values
        outputs = model(values.to(device, dtype))
        sizes = [(height, width)] * len(part)
        for result in image_processor.post_process_depth_estimation(outputs, sizes):
            depth = result["predicted_depth"].float().cpu().reshape(height, width)
            span = depth.max() - depth.min()
            depth = (depth - depth.min()) / (span if span > 0 else 1)
            maps.append((depth * 255).to(torch.uint8).float() / 255)
    return torch.stack(maps)
