"""The inputs that the decoding stages have in common: embeddings, a latent, sampling widgets."""

from typing import Any

from comfy_api.latest import io

from ..utils.kandinsky.image_embeds import ImageEmbeds
from ..utils.kandinsky.schedulers import SAMPLERS, SPACINGS
from .sockets import EMBEDS
from .widgets import cfg_input, seed_input

CANVAS = (
    "The canvas: its size and batch count, its content does not (unless it has a noise mask). "
    "Use Empty Latent Image."
)
PICTURE = "The picture to start from: VAE Encode with the VAE of Load Decoder."
SIZES = (
    " Any size works; multiples of 64 pixels are what the model knows, others are extended to the "
    "right and below for the run and cut back."
)


def condition_inputs(latent_tooltip: str, *more: io.Input) -> list[io.Input]:
    return [
        io.Model.Input("model"),
        EMBEDS.input("image_embeds"),
        EMBEDS.input(
            "negative_image_embeds",
            optional=True,
            tooltip="Needed where cfg is above 1: the second output of Prior, or Zero Embeds.",
        ),
        io.Latent.Input("latent", tooltip=latent_tooltip + SIZES),
        *more,
    ]


def sampling_inputs(*more: io.Input) -> list[io.Input]:
    return [
        seed_input(),
        io.Int.Input("steps", default=50, min=1, max=500, tooltip="Denoising steps."),
        cfg_input(
            "How closely to follow the embeddings. 1 or less: no guidance, the negative is not "
            "used, half the time."
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(SAMPLERS),
            default="ddpm",
            tooltip="ddpm is what the checkpoint was published with.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(SPACINGS),
            default="checkpoint",
            tooltip="How the steps are spaced. checkpoint: as it was published.",
        ),
        *more,
    ]


def denoise_input(default: float) -> io.Input:
    return io.Float.Input(
        "denoise",
        default=default,
        min=0.01,
        max=1.0,
        step=0.01,
        round=0.001,
        tooltip="How much to change: the strength of diffusers. The last steps × denoise of the "
        "steps are run; KSampler runs all its steps over that part instead.",
    )


def hint_input() -> io.Input:
    return io.Image.Input(
        "hint",
        tooltip="A depth map, white is near: Depth Hint, or any other node's. It is resized.",
    )


def latent_output() -> io.Output:
    return io.Latent.Output(id="latent", display_name="latent")


def take_embeds(positive: Any, negative: Any) -> tuple[ImageEmbeds, ImageEmbeds | None]:
    """The embeddings of a stage's two sockets, of which the second may be empty.

    Raises:
        ValueError: something else came in.
    """
    return EMBEDS.take(positive), None if negative is None else EMBEDS.take(negative)
