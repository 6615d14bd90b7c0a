"""CONDITIONING from image embeddings, for KSampler and ComfyUI's other samplers."""

from typing import Any

from comfy_api.latest import io

from .sockets import EMBEDS

CATEGORY = "Kandinsky 2.2/conditioning"


def conditioning_inputs() -> list[io.Input]:
    return [io.Conditioning.Input("positive"), io.Conditioning.Input("negative")]


def conditioning_outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output(id="positive", display_name="positive"),
        io.Conditioning.Output(id="negative", display_name="negative"),
    ]


class Conditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Conditioning",
            display_name="Conditioning (Kandinsky 2.2)",
            category=CATEGORY,
            description="Turns image embeddings into CONDITIONING, for KSampler and ComfyUI's "
            "other samplers. Use one node for the positive embeddings of Prior, and one for the "
            "negative ones.",
            search_aliases=["KSampler", "unCLIP conditioning", "embeds to conditioning"],
            inputs=[EMBEDS.input("image_embeds")],
            outputs=[io.Conditioning.Output(id="conditioning", display_name="conditioning")],
        )

    @classmethod
    def execute(cls, image_embeds: Any) -> io.NodeOutput:
        from ..utils.comfyui.conditioning import condition_on_embeds

        return io.NodeOutput(condition_on_embeds(EMBEDS.take(image_embeds)))


class DepthConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        hint = io.Image.Input(
            "hint", tooltip="The depth map, in which white is near. It is resized to the latent."
        )
        return io.Schema(
            node_id="Kandinsky22DepthConditioning",
            display_name="Depth Conditioning (Kandinsky 2.2)",
            category=CATEGORY,
            description="Adds a depth map to CONDITIONING, for KSampler with the "
            "controlnet-depth decoder.",
            search_aliases=["controlnet", "depth control", "apply controlnet", "KSampler"],
            inputs=[*conditioning_inputs(), hint],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, positive: Any, negative: Any, hint: Any) -> io.NodeOutput:
        from ..utils.comfyui.conditioning import add_hint

        return io.NodeOutput(add_hint(positive, hint), add_hint(negative, hint))


class InpaintConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        latent = io.Latent.Input("latent", tooltip="The whole picture, encoded with VAE Encode.")
        mask = io.Mask.Input(
            "mask", tooltip="1 (white) is repainted, 0 (black) stays. Any size works."
        )
        return io.Schema(
            node_id="Kandinsky22InpaintConditioning",
            display_name="Inpaint Conditioning (Kandinsky 2.2)",
            category=CATEGORY,
            description="Adds the picture and its mask to CONDITIONING, for KSampler with the "
            "inpaint decoder. Connect all three outputs to the sampler.",
            search_aliases=["inpainting", "inpaint model conditioning", "mask", "KSampler"],
            inputs=[*conditioning_inputs(), latent, mask],
            outputs=[
                *conditioning_outputs(),
                io.Latent.Output(id="latent", display_name="latent"),
            ],
        )

    @classmethod
    def execute(cls, positive: Any, negative: Any, latent: Any, mask: Any) -> io.NodeOutput:
        from ..utils.comfyui.conditioning import add_picture, mask_latent

        masked = mask_latent(latent, mask)
        return io.NodeOutput(add_picture(positive, masked), add_picture(negative, masked), masked)
