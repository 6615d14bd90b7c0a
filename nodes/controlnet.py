"""ControlNet: image embeddings and a depth map → latents, from noise or from a picture."""

from typing import Any

from comfy_api.latest import io

from .stage_inputs import (
    EMPTY_LATENT,
    PICTURE,
    condition_inputs,
    denoise_input,
    hint_input,
    latent_output,
    run_stage,
    sampling_inputs,
    take_embeds,
)


class ControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ControlNet",
            display_name="ControlNet (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Text to image along a depth map. Needs the controlnet-depth decoder.",
            search_aliases=["depth to image", "depth control", "control"],
            inputs=condition_inputs(EMPTY_LATENT, hint_input()) + sampling_inputs(),
            outputs=[latent_output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image_embeds: Any,
        latent: Any,
        hint: Any,
        negative_image_embeds: Any = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        embeds = take_embeds(image_embeds, negative_image_embeds)
        return io.NodeOutput(run_stage(model, "depth", embeds, latent, sampling, hint=hint))


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
        cls,
        model: Any,
        image_embeds: Any,
        latent: Any,
        hint: Any,
        negative_image_embeds: Any = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        embeds = take_embeds(image_embeds, negative_image_embeds)
        return io.NodeOutput(
            run_stage(model, "depth", embeds, latent, sampling, from_picture=True, hint=hint)
        )
