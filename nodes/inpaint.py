"""Inpaint: image embeddings, the latents of a picture and a mask → latents."""

from typing import Any

from comfy_api.latest import io

from .stage_inputs import condition_inputs, latent_output, run_stage, sampling_inputs, take_embeds


class Inpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        mask = io.Mask.Input(
            "mask",
            tooltip="1 (white) is repainted, 0 (black) stays. Any size works. If your mask is "
            "black where it should repaint (diffusers before 0.19), put Invert Mask directly "
            "after the node that gives the mask.",
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
        cls,
        model: Any,
        image_embeds: Any,
        latent: Any,
        mask: Any,
        negative_image_embeds: Any = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        embeds = take_embeds(image_embeds, negative_image_embeds)
        return io.NodeOutput(run_stage(model, "inpaint", embeds, latent, sampling, mask=mask))
