"""The inputs that the decoding stages share: embeddings, a latent, sampling widgets."""

from typing import Any

from comfy_api.latest import io

from ..utils.kandinsky.image_embeds import ImageEmbeds
from ..utils.kandinsky.samplers import SAMPLERS, SPACINGS
from .sockets import EMBEDS
from .widgets import cfg_input, seed_input

EMPTY_LATENT = (
    "An empty latent: only its size and its batch size are used, and its noise mask if it has "
    "one. Use Empty Latent Image."
)
PICTURE = "The picture to start from: VAE Encode with the VAE of Load Decoder."
SIZES = (
    " Any size works: the latent is padded on the right and below to multiples of 64 pixels while "
    "sampling, and cropped afterwards. The published model was trained at 512 to 1536 pixels; "
    "768 × 768 is usual."
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
        seed_input(
            "Picture i of the latent's batch, counted from 0, uses seed + i: with that seed you "
            "can make it again alone. (In KSampler that works only for the first picture.) If the "
            "latent has batch size 1, all embeddings get the same noise."
        ),
        io.Int.Input(
            "steps",
            default=50,
            min=1,
            max=500,
            tooltip="Denoising steps: 50 to 100 with ddpm, about 20 with dpmpp_2m and karras.",
        ),
        cfg_input(
            "How closely to follow the embeddings. At 1 or less there is no guidance: the "
            "negative embeddings are not used, and sampling takes half the time."
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(SAMPLERS),
            default="ddpm",
            tooltip="ddpm: as in the published model, 50 to 100 steps. dpmpp_2m with karras: about "
            "20 steps, but another picture for the same seed.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(SPACINGS),
            default="checkpoint",
            tooltip="How the steps are spaced. checkpoint: as in the published model. karras goes "
            "with dpmpp_2m.",
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
        tooltip="How much to change; diffusers calls it strength. With 50 steps and denoise 0.5 "
        "only the last 25 steps are run. (KSampler would run 50 steps, closer together.)",
    )


def hint_input() -> io.Input:
    return io.Image.Input(
        "hint",
        tooltip="The depth map, in which white is near: from Depth Hint or from any other node. It "
        "is resized to the latent.",
    )


def latent_output() -> io.Output:
    return io.Latent.Output(id="latent", display_name="latent")


def take_embeds(positive: Any, negative: Any) -> tuple[ImageEmbeds, ImageEmbeds | None]:
    """Return the embeddings of a stage's two sockets, of which the second may be empty.

    Raises:
        ValueError: another value came in.
    """
    return EMBEDS.take(positive), None if negative is None else EMBEDS.take(negative)


def run_stage(
    model: Any, variant: str, embeds: Any, latent: Any, sampling: dict[str, Any], **inputs: Any
) -> Any:
    """Return the latent that `utils.comfyui.stages.run_stage` gives for these widgets."""
    from ..utils.comfyui.stage_plan import Sampling
    from ..utils.comfyui.stages import run_stage

    return run_stage(model, variant, embeds, latent, Sampling(**sampling), **inputs)
