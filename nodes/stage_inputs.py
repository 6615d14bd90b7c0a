"""The inputs that the decoding stages share: embeddings, a latent, sampling widgets."""

from typing import Any

from comfy_api.latest import io

from ..utils.kandinsky.image_embeds import ImageEmbeds
from ..utils.kandinsky.schedulers import SAMPLERS, SPACINGS
from .sockets import EMBEDS
from .widgets import cfg_input, seed_input

CANVAS = (
    "An empty latent: only its size and its batch size are used, and its noise mask if it has "
    "one. Use Empty Latent Image."
)
PICTURE = "The picture to start from: VAE Encode with the VAE of Load Decoder."
SIZES = (
    " Any size works. The model knows multiples of 64 pixels; other sizes are padded on the right "
    "and below while sampling, and cropped afterwards."
)


def condition_inputs(latent_tooltip: str, *more: io.Input) -> list[io.Input]:
    return [
        io.Model.Input("model"),
        EMBEDS.input("image_embeds"),
        EMBEDS.input(
            "negative_image_embeds",
            optional=True,
            tooltip="Needed if cfg is above 1. Connect the second output of Prior, or Zero Embeds.",
        ),
        io.Latent.Input("latent", tooltip=latent_tooltip + SIZES),
        *more,
    ]


def sampling_inputs(*more: io.Input) -> list[io.Input]:
    return [
        seed_input(),
        io.Int.Input("steps", default=50, min=1, max=500, tooltip="Denoising steps."),
        cfg_input(
            "How closely to follow the embeddings. At 1 or less there is no guidance: the "
            "negative embeddings are not used, and sampling takes half the time."
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
        tooltip="How much to change; diffusers calls it strength. Of all steps, the last steps × "
        "denoise are run. KSampler differs: it spreads all its steps over that part.",
    )


def hint_input() -> io.Input:
    return io.Image.Input(
        "hint",
        tooltip="A depth map in which white is near, from Depth Hint or from any other node. It "
        "is resized to fit.",
    )


def latent_output() -> io.Output:
    return io.Latent.Output(id="latent", display_name="latent")


def take_embeds(positive: Any, negative: Any) -> tuple[ImageEmbeds, ImageEmbeds | None]:
    """Return the embeddings of a stage's two sockets, of which the second may be empty.

    Raises:
        ValueError: another value came in.
    """
    return EMBEDS.take(positive), None if negative is None else EMBEDS.take(negative)
