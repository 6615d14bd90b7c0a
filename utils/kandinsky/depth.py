"""Depth hints: pictures → depth maps, as transformers' depth-estimation pipeline makes them."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from .images import CHUNK, to_pictures

SMALLEST = 32  # pixels on a side; the coarsest of the families needs as many
# Families whose maps are distances in metres. The maps of the other families are larger where the
# picture is nearer.
IN_METRES = ("glpn", "zoedepth", "depth_pro", "tipsv2_dpt")
NEAREST = 0.01  # metres; smaller distances count as this one


def is_in_metres(config: Any) -> bool:
    """Return whether a model of transformers predicts distances, which are small where it is near.

    Its config counts more than its family.
    """
    said = getattr(config, "depth_estimation_type", None)
    return said == "metric" if said else config.model_type in IN_METRES


def check_picture_size(images: torch.Tensor) -> None:
    """Raise ValueError for pictures (B, 3, H, W) that are too small for a depth map."""
    if min(images.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"A picture of {images.shape[-1]}×{images.shape[-2]} pixels is too small to see depth "
            f"in: {SMALLEST} on each side are needed."
        )


def estimate_depth(
    image_processor: Any,
    model: Any,
    images: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
    in_metres: bool = False,
    at_once: Callable[[torch.Tensor], int] = len,
) -> torch.Tensor:
    """Return depth maps (B, H, W), from 0 (far) to 1 (near), of pictures (B, 3, H, W) in [0, 1].

    Each map is stretched to the full range separately and rounded down to 8 bits, as transformers'
    pipeline does. A picture with one depth everywhere gives zeros. Distances in metres are inverted
    first, because the depth decoder was trained on maps in which near is bright.

    Args:
        at_once: returns how many of the pixel values (N, 3, h, w) the model takes at once.
    """
    height, width = images.shape[-2:]
    post_process = image_processor.post_process_depth_estimation
    # ZoeDepth pads pictures, and needs their sizes to remove the padding.
    sizes_wanted = {"source_sizes", "target_sizes"} & set(
        inspect.signature(post_process).parameters
    )
    maps = []
    for part in images.split(CHUNK):
        values = image_processor(images=to_pictures(part), return_tensors="pt").pixel_values
        for some in values.split(at_once(values)):
            outputs = model(some.to(device, dtype))
            sizes = [(height, width)] * len(some)
            for result in post_process(outputs, **dict.fromkeys(sizes_wanted, sizes)):
                depth = result["predicted_depth"].float().cpu().reshape(height, width)
                depth = 1 / depth.clamp(min=NEAREST) if in_metres else depth
                span = depth.max() - depth.min()
                depth = (depth - depth.min()) / (span if span > 0 else 1)
                maps.append((depth * 255).to(torch.uint8).float() / 255)
    return torch.stack(maps)
