"""LoRA files → patches on the decoder's UNet or on the prior's transformer.

Trainers name one weight in many ways: `weight_names` knows them, and the host's own loader takes it
from there, with LoRA, DoRA, LoHa, LoKr and whatever else it reads.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import torch

from ..files.lora_tensors import read_tensors
from ..kandinsky.values import check_numbers
from .model import kandinsky_of
from .model_folders import find_file
from .prior import NativePrior

log = logging.getLogger("kandinsky22")


@dataclass(frozen=True)
class Network:
    """What a LoRA is for: where the host's model has its weights, and how files name them."""

    title: str
    node: str
    prefix: str  # of its weights in the state dict
    dotted: tuple[str, ...]  # what files write before a module's name,
    flat: tuple[str, ...]  # and before its name with "_" for the dots
    has: str  # patterns that tell a file for it: some key has the first,
    lacks: str  # and none the second


NETWORKS = {
    "decoder": Network(
        "the decoder's UNet",
        "Load Decoder LoRA",
        "diffusion_model.",
        ("", "unet.", "diffusion_model.", "base_model.model.", "unet.base_model.model."),
        ("lora_unet_", "lycoris_"),
        has=r"(down|up)_blocks|mid_block",
        lacks=r"transformer_blocks",  # Stable Diffusion's
    ),
    "prior": Network(
        "the prior's transformer",
        "Load Prior LoRA",
        "module.",
        ("", "prior.", "transformer.", "unet.", "base_model.model.", "prior.base_model.model."),
        ("lora_prior_", "lora_transformer_", "lora_unet_", "lycoris_"),
        has=r"transformer_blocks[._]\d+[._](attn1|ff)",
        lacks=r"(down|up)_blocks|mid_block|attn2",
    ),
}
ATTENTION = re.compile(r"\.(to_[qkv]|to_out|add_[kv]_proj)(\.0)?$")


def weight_names(keys: Iterable[str], network: Network) -> dict[str, str]:
    """Every name that a file may have for a weight, without its ending → the weight's key."""
    names = {}
    for key in keys:
        if key.startswith(network.prefix) and key.endswith(".weight"):
            module = key.removeprefix(network.prefix).removesuffix(".weight")
            # diffusers' attention processors: to_out.0 is to_out there
            old = [ATTENTION.sub(place, module) for place in (r".processor.\1", r".\1")]
            names |= {root + name: key for root in network.dotted for name in (module, *old)}
            names |= {root + module.replace(".", "_"): key for root in network.flat}
    return names


def fits(patch: Any, key: str, shape: torch.Size) -> bool:
    """Whether the host can apply a patch to a weight: it would only log that it cannot, later."""
    if isinstance(patch, tuple):  # ("diff" or "set", (tensor, …))
        return patch[1][0].shape == shape
    applied = []
    try:
        patch.calculate_weight(
            *(torch.zeros(shape), key, 1.0, 1.0, None),
            function=lambda change: applied.append(change) or change,
        )
    except RuntimeError:  # its own parts do not fit together
        return False
    return bool(applied)


def read_patches(path: Path, weights: dict[str, torch.Tensor], network: Network) -> dict[str, Any]:
    """Key of a weight → what the host is to add to it.

    Raises:
        ValueError: the file is damaged, for another model, or for one of other widths.
    """
    tensors = read_tensors(path, network.dotted)
    names = weight_names(weights, network)
    try:
        patches = comfy.lora.load_lora(tensors, names, log_missing=False)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}: it is damaged. Download it again.") from error
    if not patches:
        others = [n for n in NETWORKS.values() if n is not network and looks_like(n, tensors)]
        advice = f"Use {others[0].node} for it." if others else "Choose one for Kandinsky 2.2."
        ours = [name for name in names if name.endswith("to_q")]
        raise ValueError(
            f"{path.name} has nothing for {network.title}. It names {', '.join(list(tensors)[:3])}"
            f", …; known here are {', '.join(ours[:3])}, … {advice}"
        )
    for key, patch in patches.items():
        if not fits(patch, key, weights[key].shape):
            parts = patch[1] if isinstance(patch, tuple) else patch.weights
            sizes = " and ".join(str(list(part.shape)) for part in parts if torch.is_tensor(part))
            raise ValueError(
                f"{path.name} is for a model of other widths: for "
                f"{key.removeprefix(network.prefix)} it has {sizes}, and this model has "
                f"{list(weights[key].shape)}. Use it with the model it was trained on."
            )
    left = [key for key in tensors if key not in tensors.taken]
    if left:
        log.warning(
            *("%s: %d tensors are not for %s and are left out: %s", path.name),
            *(len(left), network.title, ", ".join(left[:3])),
        )
    return patches


def looks_like(network: Network, keys: Iterable[str]) -> bool:
    text = "\n".join(keys)
    return bool(re.search(network.has, text)) and not re.search(network.lacks, text)


def apply_lora(patcher: Any, name: str, strength: float, network: Network) -> Any:
    """A clone of a ModelPatcher with a LoRA on it; at strength 0 the patcher itself."""
    check_numbers(strength=strength)
    if strength == 0:
        return patcher
    patches = read_patches(find_file(name, "loras"), patcher.model_state_dict(), network)
    clone = patcher.clone()
    clone.add_patches(patches, strength)
    return clone


def apply_to_decoder(model: Any, name: str, strength: float) -> Any:
    """MODEL → MODEL. Raises ValueError if it is another model's."""
    kandinsky_of(model)
    return apply_lora(model, name, strength, NETWORKS["decoder"])


def apply_to_prior(prior: NativePrior, name: str, strength: float) -> NativePrior:
    patcher = prior.transformer.patcher
    patched = apply_lora(patcher, name, strength, NETWORKS["prior"])
    return prior if patched is patcher else prior.with_transformer(patched)
