"""Text to image: image embeddings → latents."""

from typing import Any

from comfy_api.latest import io

from .stage_inputs import (
    EMPTY_LATENT,
    condition_inputs,
    latent_output,
    run_stage,
    sampling_inputs,
    take_embeds,
)
from .widgets import NAMES_OF_THE_MODEL


class Decoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Decoder",
            display_name="Decoder (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Text to image: turns image embeddings into latents.",
            search_aliases=[
                *("text to image", "txt2img", "unCLIP decoder", "sampler", "unet", "latent"),
                *NAMES_OF_THE_MODEL,
            ],
            inputs=condition_inputs(EMPTY_LATENT) + sampling_inputs(),
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
        return io.NodeOutput(run_stage(model, "text_to_image", embeds, latent, sampling))
