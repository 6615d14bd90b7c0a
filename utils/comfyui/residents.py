"""Modules whose memory the host manages, and what the host offers a running stage.

The host moves weights between devices module by module; that needs its own layer classes, and a
ModelPatcher that owns the module.
"""

import logging
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP

from ..kandinsky.values import check_choice

log = logging.getLogger("kandinsky22")

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
    check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
    device = comfy.model_management.get_torch_device()
    weights = WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(device)
    compute = comfy.model_management.unet_manual_cast(weights, device) or weights
    if weights.itemsize == 1:
        # diffusers and transformers cast what comes in to the type of their weights.
        log.warning("Kandinsky 2.2 cannot keep its weights in fp8; they are kept in %s.", compute)
        weights = compute
    return weights, compute


def pick_ops(weights: torch.dtype, compute: torch.dtype) -> Any:
    """The host's layer classes for these types: plain, or such that cast their weights.

    Not its `pick_operations`, whose faster ones (--fast) are layers with constructors of their own.
    """
    return comfy.ops.disable_weight_init if weights == compute else comfy.ops.manual_cast


def compute_in(module: Any, dtype: torch.dtype) -> None:
    """Where weights are kept in another type than the device computes in, have every layer compute
    in that one. The host's layers compute in the type of what comes in, and diffusers and
    transformers cast that to the type of the weights here and there."""

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
            if isinstance(layer, torch.nn.Embedding):  # what comes in are numbers of tokens
                layer.register_forward_hook(cast_output)


def swap_ops(module: Any, ops: Any) -> None:
    """Turn plain torch layers into the host's, in place; their outputs stay the same bits."""
    for layer in module.modules():
        if type(layer) in SWAPPED:
            layer.__class__ = getattr(ops, type(layer).__name__)
            if isinstance(layer, torch.nn.Embedding):
                layer.register_parameter("bias", None)  # the host's casting code reads it


def move_stray_tensors(patcher: Any, device: torch.device, *_: Any) -> None:
    """On load: bring along the tensors that the host's partial loading passes over.

    It moves its own layers, and leaves behind parameters and buffers that sit beside them, such
    as the prior's positional embedding; those are small.
    """
    for module in patcher.model.modules():
        if not hasattr(module, "comfy_cast_weights"):
            module.comfy_patched_weights = False  # or unloading in part would take it along
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
        compute_in(module, dtype)
        self.dtype = dtype  # that it computes in
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            Shell(module),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        self.patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)

    def with_patcher(self, patcher: Any) -> "Resident":
        """The same module, as a clone of its ModelPatcher has it."""
        other = object.__new__(Resident)
        vars(other).update(vars(self), patcher=patcher)
        return other

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def load(self) -> Any:
        """The module, ready to run on its device."""
        comfy.model_management.load_models_gpu([self.patcher])
        return self.patcher.model.module


class Owner:
    """A value that owns models, in the words in which the host asks."""

    def get_models(self) -> list[Any]:
        """The ModelPatchers behind this value, for the host's bookkeeping."""
        raise NotImplementedError

    @property
    def patcher(self) -> Any:
        """What has one is a model to the host's RAM cache: old ones leave it first."""
        return self.get_models()[0]

    def is_dynamic(self) -> bool:
        """Whether the host can take back their memory bit by bit, while the value lives on."""
        return all(model.is_dynamic() for model in self.get_models())


def step_reporter(steps: int):
    """Called after each step with (index, count): shows progress, and stops if the user asked."""
    bar = comfy.utils.ProgressBar(steps)

    def on_step(index: int, count: int) -> None:
        bar.update_absolute(index + 1, count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return on_step
