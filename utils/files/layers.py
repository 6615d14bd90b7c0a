"""Replace torch's layers by those of a library that casts or moves weights, such as ComfyUI."""

from typing import Any

import torch

SWAPPED = (
    torch.nn.Linear,
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.Embedding,
)


def swap_layers(module: Any, ops: Any) -> None:
    """Give torch's plain layers the classes of `ops`, in place. The outputs keep their bits."""
    for layer in module.modules():
        if type(layer) in SWAPPED:
            layer.__class__ = getattr(ops, type(layer).__name__)
            if isinstance(layer, torch.nn.Embedding):
                layer.register_parameter("bias", None)  # ComfyUI's casting code reads it
