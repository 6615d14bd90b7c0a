"""Widgets that nodes have in common, and how a name in one is checked."""

from comfy_api.latest import io

from ..utils.comfyui import model_folders


def seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=True,
        tooltip="Item i of the batch draws its noise from seed + i, on the CPU, so it can be made "
        "again alone and is the same on every device. KSampler counts differently.",
    )


def cfg_input(tooltip: str) -> io.Input:
    return io.Float.Input(
        "cfg", default=4.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip
    )


def check_name(name: str | None, kind: str, find=model_folders.find_model) -> bool | str:
    """What the host asks before it queues: True, or the message it shows on the node."""
    if name is None:  # it comes over a wire, and is known when the graph runs
        return True
    try:
        find(name, kind)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return True
