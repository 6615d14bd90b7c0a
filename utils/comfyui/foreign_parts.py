"""Refuse parts that are made for other UNets.

They would have no effect in this UNet, or harm it.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

from .model_options import has_patches, node_of
from .patched_unet import attention_addresses

# The kinds of ComfyUI's patches that work here; see `patched_unet`.
PLACES = (
    "attn1_patch",
    "attn1_output_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "output_block_patch",
)
# Keys of transformer_options that only transformers read, and the nodes that set them.
OPTIONS = {"rope_options": "ScaleROPE", "ar_config": "ARVideoI2V"}
# Nodes whose patches would run, but make no sense here.
SENSELESS = {
    "HyperTile": "it cuts the pixels into tiles, and every tile would need the image tokens too",
    "TomePatchModel": "it merges pixels, which joint attention with image tokens does not bear",
}


def refuse_foreign_parts(
    unet: Any, transformer_options: dict[str, Any], control: Any = None
) -> None:
    """Raise ValueError for parts of other UNets that would have no effect in this one."""
    if control is not None:
        found = ["a ControlNet of other models. For depth use Depth Conditioning (Kandinsky 2.2)"]
    elif has_patches(transformer_options):
        found = list(foreign_patches(unet, transformer_options))
    else:
        found: list[str] = []
    found += [
        f"options of other models: {node} ({key}); it is for transformers"
        for key, node in OPTIONS.items()
        if key in transformer_options
    ]
    if found:
        raise ValueError(f"Kandinsky 2.2 has no place for {found[0]}. Take that node out.")


def foreign_patches(unet: Any, transformer_options: dict[str, Any]) -> Iterator[str]:
    """Yield which patches do not fit the UNet, and why."""
    for kind, functions in transformer_options.get("patches", {}).items():
        for node in map(node_of, functions):
            if kind not in PLACES or node in SENSELESS:
                reason = SENSELESS.get(node, f"its UNet has no {kind.removesuffix('_patch')}")
                yield f"patches of other models: {node} ({kind}); {reason}"
    addresses = attention_addresses(unet)
    known: dict[str, list[Any]] = {
        "attn1": addresses,
        "dit": [("double_block", number) for number in range(len(addresses))],
    }
    for kind, functions in transformer_options.get("patches_replace", {}).items():
        here = [
            key for key in functions if key[:2] in known.get(kind, []) and key[2:] in ((), (0,))
        ]
        if functions and not here:
            node = node_of(next(iter(functions.values())))
            there = ", ".join(" ".join(map(str, key)) for key in functions)
            has = ", ".join(f"{name} {number}" for name, number in dict.fromkeys(addresses))
            yield (
                f"patches_replace of other models: {node} ({kind} at {there}); its UNet has "
                f"{len(addresses)} layers of joint attention: {has} (double_block 0 to "
                f"{len(addresses) - 1})"
            )


@contextmanager
def naming_failures(transformer_options: dict[str, Any], x: torch.Tensor) -> Generator[None]:
    """Turn an error of a patch into a ValueError that names its node; x is (B, C, h, w)."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except (RuntimeError, TypeError, LookupError, AttributeError) as error:
        patches = transformer_options.get("patches", {}).values()
        replace = transformer_options.get("patches_replace", {}).values()
        functions = [one for each in patches for one in each]
        functions += [one for each in replace for one in each.values()]
        nodes = ", ".join(dict.fromkeys(map(node_of, functions)))
        raise ValueError(
            f"{nodes} fails on Kandinsky 2.2 with {x.shape[-2]}×{x.shape[-1]} latents: "
            f"{error!s:.200} Change its values, or take it out."
        ) from error
