"""Choices that a MODEL carries to every sampler and stage: its attention, its memory format."""

import uuid
from typing import Any

import comfy.model_management
import torch

from .native_unet import ATTENTION, ATTENTIONS, CHANNELS_LAST


def optimize(model: Any, attention: str, channels_last: bool) -> Any:
    """A clone of the MODEL that carries these choices; the weights are shared.

    Raises:
        ValueError: there is no such attention.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention is {attention!r}; choose one of {', '.join(ATTENTIONS)}.")
    optimized = model.clone()
    options = optimized.model_options["transformer_options"]
    options[ATTENTION], options[CHANNELS_LAST] = attention, channels_last
    optimized.patches_uuid = uuid.uuid4()  # so that the host loads it anew: see `lay_out_weights`
    return optimized


def lay_out_weights(patcher: Any, device: torch.device, *_) -> None:
    """On load: convolution weights in the memory format that this MODEL wants.

    What the host keeps elsewhere and streams in is left alone: it may be pinned in memory.
    """
    if patcher.is_dynamic():
        return
    options = patcher.model_options["transformer_options"]
    wanted = options.get(CHANNELS_LAST) or comfy.model_management.force_channels_last()
    layout = torch.channels_last if wanted else torch.contiguous_format
    for layer in patcher.model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.device == device:
            if not layer.weight.is_contiguous(memory_format=layout):
                weight = layer.weight.contiguous(memory_format=layout)
                layer.weight = torch.nn.Parameter(weight, requires_grad=False)
