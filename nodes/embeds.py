"""Image embeddings from pictures and from CLIP Vision, and those for no negative prompt."""

from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.clip_vision import EmbedsOutput
from ..utils.kandinsky.mixing import from_clip_vision
from .sockets import EMBEDS, PRIOR


class EncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22EncodeImage",
            display_name="Encode Image (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Turns pictures into image embeddings, which say what is in a picture, "
            "and only roughly where.",
            search_aliases=[
                *("image prompt", "IP-Adapter", "IP adapter", "style", "CLIP vision"),
                *("image to embeds", "image embedding", "image variation", "unCLIP"),
            ],
            inputs=[PRIOR.input("prior"), io.Image.Input("image")],
            outputs=[EMBEDS.output("image_embeds")],
        )

    @classmethod
    def execute(cls, prior: Any, image: Any) -> io.NodeOutput:
        return io.NodeOutput(PRIOR.take(prior).encode_image(image))


class ZeroEmbeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ZeroEmbeds",
            display_name="Zero Embeds (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Gives the negative embedding to use without a negative prompt: CLIP's "
            "embedding of a grey picture (all zeros after normalisation), as in diffusers.",
            search_aliases=["empty", "negative prompt", "unconditional", "zero image"],
            inputs=[PRIOR.input("prior")],
            outputs=[EMBEDS.output("image_embeds")],
        )

    @classmethod
    def execute(cls, prior: Any) -> io.NodeOutput:
        return io.NodeOutput(PRIOR.take(prior).zero_embeds())


class EmbedsFromClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22EmbedsFromClipVision",
            display_name="Embeds From CLIP Vision (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Takes image embeddings from ComfyUI's own CLIP Vision Encode. Its model "
            "must be CLIP ViT-bigG/14, which Kandinsky 2.2 was trained with.",
            search_aliases=["CLIP vision", "bigG", "unCLIP conditioning", "convert"],
            inputs=[io.ClipVisionOutput.Input("clip_vision_output")],
            outputs=[EMBEDS.output("image_embeds")],
        )

    @classmethod
    def execute(cls, clip_vision_output: Any) -> io.NodeOutput:
        return io.NodeOutput(from_clip_vision(clip_vision_output))


class EmbedsToClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22EmbedsToClipVision",
            display_name="Embeds To CLIP Vision (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Gives image embeddings to nodes that take the output of CLIP Vision "
            "Encode with CLIP ViT-bigG/14, such as unCLIPConditioning with SDXL. So prompts, "
            "mixes and morphs can stand in place of a picture.",
            search_aliases=["CLIP vision output", "bigG", "unCLIP", "SDXL", "revision", "convert"],
            inputs=[EMBEDS.input("image_embeds")],
            outputs=[
                io.ClipVisionOutput.Output(
                    id="clip_vision_output", display_name="clip_vision_output"
                )
            ],
        )

    @classmethod
    def execute(cls, image_embeds: Any) -> io.NodeOutput:
        return io.NodeOutput(EmbedsOutput(EMBEDS.take(image_embeds)))
