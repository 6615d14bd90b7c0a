"""The names that LoRA files give to the weights of the decoder and of the prior.

Trainers name one weight in many ways: diffusers, peft, kohya and LyCORIS each have their own names.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """The target of a LoRA: the names of its weights in the loaded model and in files."""

    title: str
    node: str
    prefix: str  # of its weights in the state dict
    dotted: tuple[str, ...]  # what files write before a module's name, one after another
    flat: tuple[str, ...]  # what files write before its name with "_" in place of the dots
    has: str  # a pattern that some key of a file for it has
    lacks: str  # a pattern that no key of a file for it has


NETWORKS = {
    "decoder": Network(
        "the decoder's UNet",
        "Load Decoder LoRA",
        "diffusion_model.",
        ("unet.", "diffusion_model.", "base_model.model."),
        ("lora_unet_", "lycoris_"),
        has=r"(down|up)_blocks|mid_block",
        lacks=r"transformer_blocks",  # Stable Diffusion's
    ),
    "prior": Network(
        "the prior's transformer",
        "Load Prior LoRA",
        "module.",
        ("prior.", "transformer.", "unet.", "base_model.model."),
        ("lora_prior_", "lora_transformer_", "lora_unet_", "lycoris_"),
        has=r"transformer_blocks[._]\d+[._](attn1|ff)",
        lacks=r"(down|up)_blocks|mid_block|attn2",
    ),
}
ATTENTION = re.compile(r"\.(to_[qkv]|to_out|add_[kv]_proj)(\.0)?$")
# Texts that torch.compile and parallel training write into a name, wherever they wrap a module.
WRAPPERS = re.compile(r"_orig_mod[._]|_fsdp_wrapped_module\.|(^|(?<=\.))module\.")
# peft's parts. The name of the adapter and ".weight" may follow them.
PEFT_PART = re.compile(
    r"(lora_[ABE]|lora_magnitude_vector|hada_\w+|lokr_\w+)((?!\.(weight|bias)$)\.[^.]+)?"
    r"(\.weight|\.bias)?"
)
LONGEST_NAME = 500  # a longer name cannot mean a weight
MOST_ENDINGS = 4  # words after a module's name


@dataclass(frozen=True)
class Part:
    """The meaning of one tensor of a file."""

    module: str  # the module that it changes
    ending: str  # the name of such a part in ComfyUI's loader
    written: str  # the name of the module in the file


def weight_names(keys: Iterable[str], network: Network) -> dict[str, str]:
    """Return the names that a file may have for a weight → its module, without root and ending."""
    names: dict[str, str] = {}
    for key in keys:
        if key.startswith(network.prefix) and key.endswith(".weight"):
            module = key.removeprefix(network.prefix).removesuffix(".weight")
            # diffusers' attention processors call to_out.0 to_out
            old = [ATTENTION.sub(place, module) for place in (r".processor.\1", r".\1")]
            names |= dict.fromkeys((module, *old), module)
            names |= {root + module.replace(".", "_"): module for root in network.flat}
    return names


def strip_roots(name: str, network: Network) -> str:
    """Return a module's name in a file, without the text before it."""
    while root := next((root for root in network.dotted if name.startswith(root)), ""):
        name = name.removeprefix(root)
    return name


def find_part(key: str, names: dict[str, str], network: Network) -> Part | None:
    """Return which module a tensor changes, and as which part. None: it changes none of them."""
    if len(key) > LONGEST_NAME:
        return None
    key = WRAPPERS.sub("", key)
    # "….to_q_lora.up.weight" is another spelling of "….to_q.lora.up.weight"
    pieces = re.sub(r"_lora\.(up|down)\.", r".lora.\1.", key).split(".")
    for cut in range(len(pieces) - 1, max(0, len(pieces) - 1 - MOST_ENDINGS), -1):
        written = ".".join(pieces[:cut])
        if module := names.get(strip_roots(written, network)):
            ending = ".".join(pieces[cut:])
            whole = ending in ("weight", "bias") or ending.startswith("base_layer.")
            return None if whole else Part(module, comfyui_ending(ending), written)
    return None


def comfyui_ending(ending: str) -> str:
    """Return the name of a part in ComfyUI's loader, without the name of peft's adapter."""
    if not (part := PEFT_PART.fullmatch(ending)):
        return ending
    bias = part[4] == ".bias"
    return part[1] + (".bias" if bias else ".weight" if part[1] in ("lora_A", "lora_B") else "")


def looks_like(network: Network, keys: Iterable[str]) -> bool:
    text = "\n".join(keys)
    return bool(re.search(network.has, text)) and not re.search(network.lacks, text)
