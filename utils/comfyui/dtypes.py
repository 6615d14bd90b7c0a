"""The dtype of weights, the dtype in which a device computes, and layers for both."""

import logging
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.ops
import torch

from ..kandinsky.checks import check_choice

log = logging.getLogger("kandinsky22")

WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# The dtypes of text encoders that a user can choose on ComfyUI's command line.
TEXT_ENCODER_FLAGS = {
    "fp16_text_enc": torch.float16,
    "bf16_text_enc": torch.bfloat16,
    "fp32_text_enc": torch.float32,
}


def pick_dtypes(
    weight_dtype: str, device: torch.device | None = None
) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtype of the weights and the dtype that the device computes in.

    `default` takes the dtype that suits the device: fp32 on a CPU, usually fp16 on a GPU.

    Args:
        device: where the module runs. None is ComfyUI's usual device.

    Raises:
        ValueError: `weight_dtype` is not in WEIGHT_DTYPES.
    """
    check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
    device = device or comfy.model_management.get_torch_device()
    weights = WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(device)
    compute = comfy.model_management.unet_manual_cast(weights, device) or weights
    if weights.itemsize == 1:
        # diffusers and transformers cast their input to the dtype of the weights.
        log.warning("Kandinsky 2.2 cannot keep its weights in fp8; they are kept in %s.", compute)
        weights = compute
    return weights, compute


def pick_clip_dtypes(weight_dtype: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Return the same for CLIP's encoders, by --fp32-text-enc and similar options with `default`.

    If ComfyUI keeps text encoders on the CPU beside a GPU, CLIP's weights are kept in fp16, as
    ComfyUI keeps those of other text encoders. That takes half the memory. They compute in the
    dtype that suits the CPU.
    """
    management = comfy.model_management
    asked = [t for flag, t in TEXT_ENCODER_FLAGS.items() if getattr(comfy.cli_args.args, flag)]
    if not asked and device.type == "cpu" and management.get_torch_device().type != "cpu":
        asked = [torch.float16]
    if weight_dtype != "default" or not asked:
        return pick_dtypes(weight_dtype, device)
    return asked[0], management.unet_manual_cast(asked[0], device) or asked[0]


def pick_ops(weights: torch.dtype, compute: torch.dtype) -> Any:
    """Return ComfyUI's layer classes for these dtypes: plain ones, or ones that cast their weights.

    ComfyUI's `pick_operations` is not used, as its faster classes (--fast) have constructors of
    their own.
    """
    return comfy.ops.disable_weight_init if weights == compute else comfy.ops.manual_cast


def compute_in(module: Any, dtype: torch.dtype) -> None:
    """Have every layer whose weights have another dtype compute in `dtype`.

    ComfyUI's layers compute in the dtype of their input. In some places, diffusers and transformers
    cast that input to the dtype of the weights.
    """

    def cast(value: Any) -> Any:
        return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value

    def cast_inputs(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(cast, inputs))

    def cast_output(_: Any, __: Any, output: Any) -> Any:
        return cast(output)

    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "comfy_cast_weights") and weight is not None and weight.dtype != dtype:
            layer.register_forward_pre_hook(cast_inputs)
            # Its inputs are token numbers, so its output is cast.
            if isinstance(layer, torch.nn.Embedding):
                layer.register_forward_hook(cast_output)
