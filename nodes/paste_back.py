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
            description="Pastes the repainted part of a picture into the original. Outside of the "
            "mask and its feathered border, every pixel of the original stays as it is, to the "
            "bit.",
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
                    tooltip="1 (white) is taken from the repainted picture, 0 (black) from the "
                    "original. A mask of another size is resized.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=MOST_FEATHER,
                    tooltip="How many pixels wide the two pictures blend, outside of the mask.",
                ),
            ],
            outputs=[io.Image.Output(id="image", display_name="image")],
        )

    @classmethod
    def execute(cls, original: Any, repainted: Any, mask: Any, feather: Any) -> io.NodeOutput:
        return io.NodeOutput(paste_back(original, repainted, mask, feather))
