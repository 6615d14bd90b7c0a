"""The decoding stages: image embeddings → latents. One node a stage, one call each."""

from comfy_api.latest import io

from ..utils.comfyui.stages import Sampling, run_stage
from ..utils.kandinsky.schedulers import SAMPLERS, SPACINGS
from . import types
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
        types.Embeds.Input("image_embeds"),
        types.Embeds.Input(
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


class Decoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Decoder",
            display_name="Decoder (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Text to image: turns image embeddings into latents.",
            search_aliases=["text to image", "txt2img", "unCLIP decoder", "sampler", "unet"],
            inputs=condition_inputs(CANVAS) + sampling_inputs(),
            outputs=[latent_output()],
        )

    @classmethod
    def execute(
        cls, model, image_embeds, latent, negative_image_embeds=None, **sampling
    ) -> io.NodeOutput:
        conditions = (model, "text_to_image", image_embeds, negative_image_embeds, latent)
        return io.NodeOutput(run_stage(*conditions, Sampling(**sampling)))


class Img2Img(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Img2Img",
            display_name="Img2Img (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Image to image: changes a picture towards the image embeddings.",
            search_aliases=["image to image", "strength", "variation", "denoise"],
            inputs=condition_inputs(PICTURE) + sampling_inputs(denoise_input(0.3)),
            outputs=[latent_output()],
        )

    @classmethod
    def execute(
        cls, model, image_embeds, latent, denoise, negative_image_embeds=None, **sampling
    ) -> io.NodeOutput:
        conditions = (model, "text_to_image", image_embeds, negative_image_embeds, latent)
        return io.NodeOutput(run_stage(*conditions, Sampling(**sampling), denoise=denoise))


class Inpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        mask = io.Mask.Input(
            "mask",
            tooltip="1 (white) is repainted, 0 (black) stays. Any size. For masks of the old "
            "polarity put Invert Mask before it.",
        )
        return io.Schema(
            node_id="Kandinsky22Inpaint",
            display_name="Inpaint (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Repaints the masked part of a picture. Needs the inpaint decoder.",
            search_aliases=["inpainting", "outpaint", "mask", "repaint", "fill"],
            inputs=condition_inputs("The whole picture, encoded with VAE Encode.", mask)
            + sampling_inputs(),
            outputs=[latent_output()],
        )

    @classmethod
    def execute(
        cls, model, image_embeds, latent, mask, negative_image_embeds=None, **sampling
    ) -> io.NodeOutput:
        conditions = (model, "inpaint", image_embeds, negative_image_embeds, latent)
        return io.NodeOutput(run_stage(*conditions, Sampling(**sampling), mask=mask))


class ControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ControlNet",
            display_name="ControlNet (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Text to image along a depth map. Needs the controlnet-depth decoder.",
            search_aliases=["depth to image", "depth control", "control"],
            inputs=condition_inputs(CANVAS, hint_input()) + sampling_inputs(),
            outputs=[latent_output()],
        )

    @classmethod
    def execute(
        cls, model, image_embeds, latent, hint, negative_image_embeds=None, **sampling
    ) -> io.NodeOutput:
        conditions = (model, "depth", image_embeds, negative_image_embeds, latent)
        return io.NodeOutput(run_stage(*conditions, Sampling(**sampling), hint=hint))


class ControlNetImg2Img(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ControlNetImg2Img",
            display_name="ControlNet Img2Img (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Image to image along a depth map. Needs the controlnet-depth decoder.",
            search_aliases=["depth to image", "image to image", "strength", "control"],
            inputs=condition_inputs(PICTURE, hint_input()) + sampling_inputs(denoise_input(0.5)),
            outputs=[latent_output()],
        )

    @classmethod
    def execute(
        cls, model, image_embeds, latent, hint, denoise, negative_image_embeds=None, **sampling
    ) -> io.NodeOutput:
        conditions = (model, "depth", image_embeds, negative_image_embeds, latent)
        return io.NodeOutput(
            run_stage(*conditions, Sampling(**sampling), denoise=denoise, hint=hint)
        )
