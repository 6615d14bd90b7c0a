"""The names that LoRA files give to the weights of the decoder and of the prior.

Trainers name one weight in many ways: diffusers, peft, kohya and LyCORIS each have their own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """What a LoRA is for: where the loaded model has its weights, and how files name them."""

    title: str
    node: str
    prefix: str  # of its weights in the state dict
    dotted: tuple[str, ...]  # what files write before a module's name,
    flat: tuple[str, ...]  # and before its name with "_" for the dots
    has: str  # patterns that recognise a file for it: some key has the first,
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


def looks_like(network: Network, keys: Iterable[str]) -> bool:
    text = "\n".join(keys)
    return bool(re.search(network.has, text)) and not re.search(network.lacks, text)
