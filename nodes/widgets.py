"""Widgets that the prior's and the decoder's nodes have in common."""

from comfy_api.latest import io


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
