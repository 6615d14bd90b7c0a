"""Modules whose memory ComfyUI manages: it loads them, offloads them and frees them.

ComfyUI moves weights between devices layer by layer. For that, a module needs ComfyUI's layer
classes and a ModelPatcher that owns it.
"""

import math
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP

from .dtypes import compute_in

# Numbers in memory at the peak of a transformer's forward, for each channel of each token. `python
# tools/measure_memory.py prior text_encoder image_encoder` shows 12 to 14.9, and ComfyUI's own CLIP
# was measured at 11.4 and 12.
ACTIVATIONS = 15
ONE_PASS_ACTIVATIONS = 18  # 17.9 measured; it is narrow, and has a mask for each of its heads


def move_stray_tensors(patcher: Any, device: torch.device, *_: Any) -> None:
    """On load, move the tensors that ComfyUI's partial loading skips.

    ComfyUI moves its own layers, and leaves behind the parameters and buffers beside them, such as
    the positional embedding of the prior. Those are small.
    """
    for module in patcher.model.modules():
        if not hasattr(module, "comfy_cast_weights"):
            module.comfy_patched_weights = False  # or partial unloading would move them as well
            for name, parameter in module.named_parameters(recurse=False):
                moved = torch.nn.Parameter(parameter.to(device), requires_grad=False)
                module.register_parameter(name, moved)
            for name, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[name] = buffer.to(device)  # keeps it in or out of the state dict


def transformer_memory(dtype: torch.dtype, *shape: int, each: int = ACTIVATIONS) -> int:
    """Return the bytes at the peak of a transformer's forward on (rows, tokens, width)."""
    return math.prod(shape) * each * dtype.itemsize if shape else 0


def free_memory(patcher: Any) -> int:
    """Return the free bytes on a model's device, with those that dynamic models would give up."""
    management, device = comfy.model_management, patcher.load_device
    free = management.get_free_memory(device)
    if patcher.is_dynamic():
        models = [each.model for each in management.current_loaded_models if each.device == device]
        others = [model for model in models if model is not None and model is not patcher]
        free += sum(model.loaded_size() for model in others if model.is_dynamic())
    return free


class Shell(torch.nn.Module):
    """A holder of a module for a ModelPatcher, which sets `device` on the module that it owns.

    The modules of diffusers and transformers do not allow that.
    """

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module
        self.device = None


class Resident:
    """A module that ComfyUI loads, offloads and frees."""

    def __init__(
        self,
        module: torch.nn.Module,
        dtype: torch.dtype,
        device: torch.device | None = None,
        offload_device: torch.device | None = None,
    ):
        """Give a module a ModelPatcher.

        Args:
            dtype: the module computes in it.
            device, offload_device: where it runs and where it waits. None is ComfyUI's usual
                device.
        """
        management = comfy.model_management
        management.archive_model_dtypes(module)
        compute_in(module, dtype)
        self.dtype = dtype
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            Shell(module),
            load_device=device or management.get_torch_device(),
            offload_device=offload_device or management.unet_offload_device(),
        )
        self.patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)

    def with_patcher(self, patcher: Any) -> "Resident":
        """Return the same module with a clone of its ModelPatcher."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), patcher=patcher)
        return other

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    @property
    def module(self) -> Any:
        return self.patcher.model.module

    def load(self, *shape: int) -> Any:
        """Return the module, ready to run on its device.

        Args:
            shape: (rows, tokens, width) of a transformer's next input. ComfyUI makes room for it.
        """
        memory = transformer_memory(self.dtype, *shape)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory)
        return self.module

    def load_for(self, items: int, memory: int) -> tuple[Any, int]:
        """Return the module, ready to run, and how many of `items` fit beside it at once.

        That number is 1 at least. ComfyUI makes as much room as it can without taking the module's
        own weights off the device.

        Args:
            memory: bytes that one item needs.
        """
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=items * memory, minimum_memory_required=memory
        )
        room = int(free_memory(self.patcher) // memory)
        return self.module, max(1, min(items, room))


class Owner:
    """A value on a wire that owns models, with the methods that ComfyUI calls on such a value."""

    def get_models(self) -> list[Any]:
        """Return the ModelPatchers of this value, for ComfyUI's memory accounts."""
        raise NotImplementedError

    @property
    def patcher(self) -> Any:
        """A ModelPatcher.

        ComfyUI's RAM cache treats a value that has one as a model, and drops old models first.
        """
        return self.get_models()[0]

    def is_dynamic(self) -> bool:
        """Return whether ComfyUI can take back their memory in parts while the value is alive."""
        return all(model.is_dynamic() for model in self.get_models())
