"""The options of a MODEL: its wrappers, and how its UNet is to run."""

from typing import Any

import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP, get_all_wrappers

from .wrapped_unet import Wrapped

# Keys of a MODEL's `transformer_options` that the Optimize node sets.
ATTENTION, CHANNELS_LAST = "kandinsky22_attention", "kandinsky22_channels_last"
ATTENTIONS = ("sdpa", "host", "plain")  # the values of the first
# ComfyUI's key for a function of other nodes that computes attention.
OVERRIDE = "optimized_attention_override"
# A key that a stage sets at each step: the timestep, which may lie between two noise levels.
TIMESTEP = "kandinsky22_timestep"
# The values of a MODEL's `model_options` that ComfyUI's guidance reads.
GUIDANCE = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
    "disable_cfg1_optimization",
    "context_handler",
)
# The modules whose wrappers change only what a stage honours. ComfyUI imports its nodes' modules
# under their paths.
SAMPLING_MODULES = ("nodes_easycache", "context_windows")
IN_THE_UNET = (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
IN_GUIDANCE = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH)


def wrapped_options(model: Any) -> dict[str, Any]:
    """Return a copy of a MODEL's transformer_options, with all of its wrappers."""
    options = comfy.patcher_extension.copy_nested_dicts(model.model_options["transformer_options"])
    comfy.patcher_extension.merge_nested_dicts(
        options.setdefault("wrappers", {}), model.wrappers, copy_dict1=False
    )
    return options


def node_of(part: Any) -> str:
    """Return the name of the node that made a function or an object, from its qualified name."""
    return getattr(part, "__qualname__", type(part).__qualname__).split(".")[0]


def is_override(wrapper: Any) -> bool:
    """Return whether a wrapper is ComfyUI's CFG Override, which only sets the cfg of some steps."""
    return node_of(wrapper) == "CFGOverride"


def needs_guider(model: Any, options: dict[str, Any]) -> bool:
    """Return whether a stage has to call ComfyUI's guider at each step; `options` are wrapped."""
    wrappers = [
        wrapper
        for kind in options["wrappers"]
        if kind not in IN_THE_UNET
        for wrapper in get_all_wrappers(kind, options)
    ]
    asked = has_patches(options) or any(model.model_options.get(name) for name in GUIDANCE)
    return asked or not all(is_override(wrapper) for wrapper in wrappers)


def needs_both(model: Any) -> bool:
    """Return whether a node on the MODEL needs the prediction without the prompt at any cfg."""
    return bool(model.model_options.get("disable_cfg1_optimization"))


def unet_arguments(transformer_options: dict[str, Any], unet: Any = None) -> dict[str, Any]:
    """Return how a MODEL's UNet is to run, as arguments of `Kandinsky22UNet.forward`.

    They are arguments because TorchCompileModel makes torch.compile ignore what changes within
    `transformer_options`.

    Args:
        unet: what the MODEL calls, which may be compiled. Wrappers of other nodes run around it.
    """
    attention = transformer_options.get(ATTENTION, "sdpa")
    override = transformer_options.get(OVERRIDE)
    # A node that overrides ComfyUI's attention always wins.
    if override is not None:
        attention = "host"
    channels_last = bool(transformer_options.get(CHANNELS_LAST))
    chosen = {"attention": attention, "channels_last": channels_last}
    if override is not None:
        chosen["override"] = override
    if has_patches(transformer_options):
        chosen["patches"] = unet_patches(transformer_options)
    wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
    if wrappers:
        chosen["wrapped"] = Wrapped(unet, wrappers)
    return chosen


def has_patches(transformer_options: dict[str, Any]) -> bool:
    return bool(transformer_options.get("patches") or transformer_options.get("patches_replace"))


def unet_patches(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """Return the functions of other nodes between and in the blocks of the UNet, and their options.

    The options are those that may change from call to call.
    """
    # Copies, because torch.compile identifies an object by the first place where it sees it.
    return {
        "patches": {k: [*v] for k, v in transformer_options.get("patches", {}).items()},
        "replace": {k: {**v} for k, v in transformer_options.get("patches_replace", {}).items()},
        "options": {"cond_or_uncond": [*transformer_options.get("cond_or_uncond", [0])]},
    }


def refuse_mixed_kinds(model: Any) -> None:
    """Raise ValueError for a merge of two kinds of decoder.

    ComfyUI would skip the weights of other shapes.

    The kinds differ in the number of input channels of their first layer.
    """
    name = "diffusion_model.conv_in.weight"
    for _, value, *_ in getattr(model, "patches", {}).get(name, []):
        shape = model.model.diffusion_model.conv_in.weight.shape
        # A merge brings the other model's weight in a list, and its own patches after it.
        other = value[0][0] if isinstance(value, list) else None
        if other is not None and other.shape != shape:
            raise ValueError(
                "Merge decoders of one kind. This MODEL is a merge of two kinds (text to image, "
                f"inpaint, depth): the first layer of one takes {shape[1]} channels, that of the "
                f"other {other.shape[1]}."
            )
