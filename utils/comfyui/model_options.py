"""What a MODEL carries in its options: wrappers, and how its UNet is to run."""

from typing import Any

import comfy.patcher_extension

# Keys of a MODEL's `transformer_options` that the Optimize node sets.
ATTENTION, CHANNELS_LAST = "kandinsky22_attention", "kandinsky22_channels_last"


def wrapped_options(model: Any) -> dict[str, Any]:
    """A copy of a MODEL's transformer_options, with all of its wrappers."""
    options = comfy.patcher_extension.copy_nested_dicts(model.model_options["transformer_options"])
    comfy.patcher_extension.merge_nested_dicts(
        options.setdefault("wrappers", {}), model.wrappers, copy_dict1=False
    )
    return options


def unet_arguments(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """How a MODEL's UNet is to run, as arguments of `Kandinsky22UNet.forward`.

    They are arguments because TorchCompileModel makes torch.compile ignore what changes within
    `transformer_options`.
    """
    attention = transformer_options.get(ATTENTION, "sdpa")
    # A node that overrides ComfyUI's attention always wins.
    if "optimized_attention_override" in transformer_options:
        attention = "host"
    channels_last = bool(transformer_options.get(CHANNELS_LAST))
    return {"attention": attention, "channels_last": channels_last}


def refuse_foreign_parts(transformer_options: dict[str, Any], control: Any = None) -> None:
    """Raises ValueError for what is made for other UNets and would do nothing in this one."""
    found = [name for name in ("patches", "patches_replace") if transformer_options.get(name)]
    if found or control is not None:
        raise ValueError(
            f"Kandinsky 2.2 has no place for {found[0] if found else 'a ControlNet'} of other "
            "models (PAG, SAG, HyperTile, GLIGEN, …). Take that node out; for depth use Depth "
            "Conditioning (Kandinsky 2.2)."
        )


def refuse_mixed_kinds(model: Any) -> None:
    """Raises ValueError for a merge of two kinds of decoder; ComfyUI would skip what does not fit.

    The kinds differ in how many channels go into their first layer.
    """
    name = "diffusion_model.conv_in.weight"
    shape = model.model.diffusion_model.conv_in.weight.shape
    for _, value, *_ in model.patches.get(name, []):
        # A merge brings the other model's weight in a list, and its own patches after it.
        other = value[0][0] if isinstance(value, list) else None
        if other is not None and other.shape != shape:
            raise ValueError(
                "Merge decoders of one kind. This MODEL is a merge of two kinds (text to image, "
                f"inpaint, depth): the first layer of one takes {shape[1]} channels, that of the "
                f"other {other.shape[1]}."
            )
