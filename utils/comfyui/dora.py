"""DoRA as peft trains it. ComfyUI's own DoRA differs where the lengths are those of outputs."""

from typing import Any

import torch
from comfy.model_management import cast_to_device
from comfy.weight_adapter import LoRAAdapter


class PeftDora(LoRAAdapter):
    """A patch for weight + change, in which every output gets its learned length.

    ComfyUI's `weight_decompose` divides by the length of the weight without the change there.
    """

    name = "peft's DoRA"

    def calculate_weight(  # LoRAAdapter declares it in this way
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        parts: Any = self.weights
        up, down, alpha, _, magnitude, _ = parts
        up, down = (cast_to_device(p, weight.device, torch.float32).flatten(1) for p in (up, down))
        magnitude = cast_to_device(magnitude, weight.device, torch.float32)
        scale = 1.0 if alpha is None else alpha / len(down)
        old = weight.float()
        whole = (old + function(scale * (up @ down).reshape(weight.shape))).flatten(1)
        lengths = whole.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        whole = whole * (magnitude.reshape(lengths.shape) / lengths)[:, None]
        weight += (strength * (whole.reshape(weight.shape) - old)).to(weight.dtype)
        return weight


def with_magnitude(patch: LoRAAdapter, magnitude: torch.Tensor) -> PeftDora:
    """Return a LoRA of ComfyUI with the lengths that peft has learned for it."""
    return PeftDora(patch.loaded_keys, (*patch.weights[:4], magnitude, None))
