"""Image to image: image embeddings and the latents of a picture → latents."""

from typing import Any

from comfy_api.latest import io

from .stage_inputs import (
    PICTURE,
    condition_inputs,
    denoise_input,
    latent_output,
    run_stage,
    sampling_inputs,
    take_embeds,
)


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
        cls,
        model: Any,
        image_embeds: Any,
        latent: Any,
        negative_image_embeds: Any = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        embeds = take_embeds(image_embeds, negative_image_embeds)
        return io.NodeOutput(
            run_stage(model, "text_to_image", embeds, latent, sampling, from_picture=True)
        )
