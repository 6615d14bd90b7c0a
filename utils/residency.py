"""Modules whose memory the host manages, and what the host offers a running stage.

The host moves weights between devices module by module; that needs its own layer classes, and a
ModelPatcher that owns the module.
"""

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP

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

WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def pick_dtypes(weight_dtype: str) -> tuple[torch.dtype, torch.dtype]:
    """The type weights are kept in, and the one the device computes in.

    `default` is what the device computes well in: fp32 on a CPU, usually fp16 on a GPU.
    """
    device = comfy.model_management.get_torch_device()
    weights = WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(device)
    return weights, comfy.model_management.unet_manual_cast(weights, device) or weights


def swap_ops(module: Any, ops: Any) -> None:
    """Turn plain torch layers into the host's, in place; their outputs stay the same bits."""
    for layer in module.modules():
        if type(layer) in SWAPPED:
            layer.__class__ = getattr(ops, type(layer).__name__)
            if isinstance(layer, torch.nn.Embedding):
                layer.register_parameter("bias", None)  # the host's casting code reads it


def move_stray_tensors(patcher, device, *_):
    """On load: bring along the tensors that the host's partial loading passes over.

    It moves its own layers, and leaves behind parameters and buffers that sit beside them, such
    as the prior's positional embedding; those are small.
    """
    for module in patcher.model.modules():
        if not hasattr(module, "comfy_cast_weights"):
            for name, parameter in module.named_parameters(recurse=False):
                moved = torch.nn.Parameter(parameter.to(device), requires_grad=False)
                module.register_parameter(name, moved)
            for name, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[name] = buffer.to(device)  # keeps it out of, or in, the state dict


class Shell(torch.nn.Module):
    """Holds a module for a ModelPatcher, which sets `device` on what it owns; theirs forbid it."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module
        self.device = None


class Resident:
    """A module that the host loads, offloads and frees."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype):
        comfy.model_management.archive_model_dtypes(module)
        self.dtype = dtype  # that it computes in
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            Shell(module),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        self.patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def load(self) -> Any:
        """The module, ready to run on its device."""
        comfy.model_management.load_models_gpu([self.patcher])
        return self.patcher.model.module


def step_reporter(steps: int):
    """Called after each step with (index, count): shows progress, and stops if the user asked."""
    bar = comfy.utils.ProgressBar(steps)

    def on_step(index: int, count: int) -> None:
        bar.update_absolute(index + 1, count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return on_step
