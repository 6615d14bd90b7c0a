"""Prior and decoder one after the other in one process: prompt to latents."""

from __future__ import annotations

from . import decode, prior
from .checkpoints import PIXELS, checkpoints
from .pairs import compare, in_turns
from .report import TIMES

BAR = 1.0
COLUMNS = TIMES


def run(
    size: str = "miniature",
    dtype: str = "fp32",
    pixels: int = 0,
    steps: int = 50,
    rounds: int = 20,
) -> list[dict]:
    """Return one row: 25 steps of the prior, then `steps` of the decoder."""
    pixels = pixels or PIXELS[size]
    with checkpoints(size, "prior", "text_to_image") as folders:
        priors = prior.contestants(folders["prior"], dtype, 1, 25)
        decoders = decode.contestants(folders["text_to_image"], dtype, pixels, 1, steps)
    pairs = {"ours": ("ours", "Decoder"), "diffusers": ("diffusers", "diffusers")}
    runs = {
        name: lambda first=priors[first], second=decoders[second]: (first(), second())
        for name, (first, second) in pairs.items()
    }
    times = in_turns(runs, rounds)
    case = f"{size}, 25 + {steps} steps, {pixels} px, {dtype}"
    return [{"case": case, **compare(times["ours"], times["diffusers"]), "bar": BAR}]
