"""Check values on wires: are they valid, finite and unchanged?"""

import dataclasses
import hashlib
from typing import Any

import torch

TAME = 1e4  # no wire of a correct graph is beyond this


def walk(value: Any):
    """Yield every value within a value."""
    yield value
    if isinstance(value, dict):
        inner = list(value.values())
    elif dataclasses.is_dataclass(value):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif hasattr(value, "model_options"):  # a MODEL: what it carries, and not its weights
        names = ("model_options", "object_patches", "patches_uuid", "hook_patches", "wrappers")
        inner = [getattr(value, name, None) for name in names]  # some of them, on a GUIDER
    else:
        inner = getattr(value, "tensors", value if isinstance(value, list | tuple) else [])
    for each in inner:
        yield from walk(each)


def tensors_in(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in walk(value) if torch.is_tensor(leaf)]


def digest(value: Any) -> list:
    """Return a digest that is equal before and after, if nothing in the value has changed."""

    def of(leaf: Any):
        if torch.is_tensor(leaf):
            # Cat makes them contiguous.
            numbers = torch.cat([leaf.flatten()]).view(torch.uint8).numpy()
            return leaf.shape, leaf.dtype, hashlib.blake2b(numbers, digest_size=8).digest()
        return (len(leaf), *leaf) if isinstance(leaf, dict) else id(leaf)

    return [of(leaf) for leaf in walk(value)]


def is_tame(value: Any) -> bool:
    """Return whether a value is finite throughout, and of usual size."""
    numbers = [leaf for leaf in tensors_in(value) if leaf.numel() and leaf.is_floating_point()]
    return all(leaf.abs().max() < TAME for leaf in numbers)


def malformed(kind: str, value: Any, node: str = "") -> str:
    """Return what is wrong with a value from one of our nodes, or an empty text."""
    # Paste Back keeps the alpha channel of an original that has one.
    channels = (3, 4) if node == "Kandinsky22PasteBack" else (3,)
    if kind == "LATENT":
        samples, indices = value["samples"], value.get("batch_index")
        if samples.ndim != 4 or samples.shape[1] != 4 or 0 in samples.shape:
            return f"samples of shape {tuple(samples.shape)}"
        if indices is not None and len(indices) != len(samples):
            return f"{len(indices)} batch indices for {len(samples)} items"
    if kind == "IMAGE" and (value.ndim != 4 or value.shape[-1] not in channels or 0 in value.shape):
        return f"shape {tuple(value.shape)}"
    if kind == "IMAGE" and (value.min() < 0 or value.max() > 1):
        return f"values from {value.min()} to {value.max()}"
    if kind == "CONDITIONING" and not all(part[0].ndim == 3 for part in value):
        return f"shapes {[tuple(part[0].shape) for part in value]}"
    return "nothing" if value is None else ""
