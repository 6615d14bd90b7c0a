"""ComfyUI's CLIP Vision: image embeddings as its output."""

from typing import Any

import comfy.clip_vision
import comfy.model_management

from ..kandinsky.image_embeds import ImageEmbeds


class EmbedsOutput(comfy.clip_vision.Output):
    """A CLIP_VISION_OUTPUT that has image embeddings, and nothing of the layers before them."""

    def __init__(self, embeds: ImageEmbeds):
        tensor = embeds.tensor.clone()  # other people's nodes may write to it
        self.image_embeds = tensor.to(comfy.model_management.intermediate_device())
        self.mm_projected = None  # as in every output of CLIP

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{name} is not in image embeddings of Kandinsky 2.2: they are the last that CLIP "
            "makes of a picture. Connect CLIP Vision Encode to what wants more of its layers."
        )
