"""A GPU of shapes without numbers. Work on it is counted, and neither stored nor computed.

Its tensors are PyTorch's fake tensors. Tensors on the CPU stay real, as loops depend on their
values.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
# A call that only views a tensor in another way. PyTorch does not mark this one as a view.
VIEWS = {"_unsafe_view"}
ROOMY = 2**40  # bytes that ComfyUI is told are free


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def is_there(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is on the simulated GPU, in the fastest way."""
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type == GPU.type


def number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and is_there(value) else value


def fused_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, **_: Any) -> Any:
    """Count the kernel that an NVIDIA GPU would take. PyTorch would ask the GPU itself for it."""
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, False)[0]


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


class SimulatedGPU(TorchDispatchMode):
    """Counts the work on the simulated GPU while it is active.

    `count` has numbers that can be compared between runs. "aten" is each call of PyTorch on the GPU
    that is not a view, and "aten NAME" those of one name. "copies" are between devices. "waits" are
    those in which the CPU stands still until the GPU has finished its work. "bytes" are read and
    written by the calls. `peak` is the most bytes of results that are alive on the GPU at once.
    """

    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # this asks a tensor where it is
            return func(*args, **kwargs)
        given = tensors_in((args, kwargs))
        target = kwargs.get("device")
        there = any(map(is_there, given))
        if func.overloadpacket.__name__ == "_pin_memory":
            return args[0]
        if not there and (target is None or torch.device(target).type != GPU.type):
            with unset_fake_temporarily():
                return func(*args, **kwargs)  # on the CPU, for real
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":  # a number of the GPU that is unknown here
            self.count["waits"] += 1
            return 1
        if name == "nonzero":  # the count is unknown, too, so it is one
            self.count["waits"] += 1
            return torch.zeros(1, args[0].ndim, dtype=torch.long, device=GPU)
        result = func(*args, **kwargs)
        self.note(name, func, given, tensors_in(result), args, kwargs)
        return result

    def note(self, name: str, func: Any, given: list, made: list, args: Any, kwargs: Any) -> None:
        before = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in made:
            storage = tensor.untyped_storage()
            if is_there(tensor) and storage._cdata not in self.alive | before:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        if func.is_view or name in VIEWS:
            return
        self.count["aten"] += 1
        self.count[f"aten {name}"] += 1
        self.count["bytes"] += sum(map(size, given + made))
        if len(set(map(is_there, given[:2] + made))) > 1 and "copy" in name:
            self.count["copies"] += 1
            blocking = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            self.count["waits"] += blocking

    def free(self, storage: int, nbytes: int) -> None:
        self.alive.remove(storage)
        self.now -= nbytes


def put(module: torch.nn.Module, dtype: torch.dtype) -> Any:
    """Move a module from the meta device to the simulated GPU. Its weights are not counted."""
    for layer in module.modules():
        for name, tensor in list(layer.named_parameters(recurse=False)):
            weight = torch.empty(tensor.shape, dtype=dtype, device=GPU)
            setattr(layer, name, torch.nn.Parameter(weight, requires_grad=False))
        for name, tensor in list(layer.named_buffers(recurse=False)):
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            layer._buffers[name] = torch.empty(tensor.shape, dtype=kind, device=GPU)
    return module.eval()


@contextmanager
def simulated_gpu() -> Iterator[SimulatedGPU]:
    """Have ComfyUI and PyTorch see a GPU that has all models loaded, and room for more."""
    management, plain = comfy.model_management, {}
    stand_ins = {
        "load_models_gpu": lambda *_, **__: None,
        "get_free_memory": lambda *_, **__: ROOMY,
        "get_torch_device": lambda: GPU,
        "pytorch_attention_flash_attention": lambda: True,
        "cuda_device_context": lambda device: nullcontext(),
    }
    for name, stand_in in stand_ins.items():
        if hasattr(management, name):  # not every ComfyUI has all of them
            plain[name] = getattr(management, name)
            setattr(management, name, stand_in)
    # PyTorch would look for a real GPU for a tensor made from numbers on one.
    plain_tensor, plain_attention = torch.tensor, F.scaled_dot_product_attention
    torch.tensor = lambda data, **settings: plain_tensor(tree_map(number, data), **settings)
    F.scaled_dot_product_attention = fused_attention
    try:
        # In inference mode, a composed operation is one call, and its parts would not be visible.
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.inference_mode(False), torch.no_grad(), fake, SimulatedGPU() as gpu:
            yield gpu
    finally:
        torch.tensor, F.scaled_dot_product_attention = plain_tensor, plain_attention
        for name, function in plain.items():
            setattr(management, name, function)
