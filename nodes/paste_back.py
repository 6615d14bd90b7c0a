"""Paste Back: the repainted part of a picture goes into the original, which stays as it is."""

from typing import Any

from comfy_api.latest import io

from ..utils.kandinsky.paste_back import MOST_FEATHER, paste_back


class PasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22PasteBack",
            display_name="Paste Back (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Pastes the repainted part of a picture into the original. Outside the "
            "mask and its feathered border, every pixel of the original stays exactly as it is.",
            search_aliases=["composite", "stitch", "uncrop", "blend", "inpaint", "outpaint"],
            inputs=[
                io.Image.Input(
                    "original", tooltip="The picture that went into VAE Encode. One serves a batch."
                ),
                io.Image.Input(
                    "repainted",
                    tooltip="The picture that comes out of VAE Decode. What VAE Encode added to "
                    "reach a multiple of 8 pixels is cut off.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The part that is 1 (white) comes from the repainted picture, the "
                    "part that is 0 (black) from the original. A mask of another size is resized.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=MOST_FEATHER,
                    tooltip="Width of the soft border outside the mask, in pixels. 0 is a hard "
                    "edge.",
                ),
            ],
            outputs=[io.Image.Output(id="image", display_name="image")],
        )

    @classmethod
    def execute(cls, original: Any, repainted: Any, mask: Any, feather: Any) -> io.NodeOutput:
        return io.NodeOutput(paste_back(original, repainted, mask, feather))
