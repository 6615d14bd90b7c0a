"""ComfyUI's CLIP Vision as the image encoder of a prior, and image embeddings as its output."""

from typing import Any

import comfy.clip_vision
import comfy.model_management
import torch

from ..kandinsky.image_embeds import ImageEmbeds
from ..kandinsky.images import CHUNK
from .residents import transformer_memory


class EmbedsOutput(comfy.clip_vision.Output):
    """A CLIP_VISION_OUTPUT that has image embeddings, and no layers before them."""

    def __init__(self, embeds: ImageEmbeds):
        tensor = embeds.tensor.clone()  # a copy, because other nodes may write to it
        self.image_embeds = tensor.to(comfy.model_management.intermediate_device())
        self.mm_projected = None  # every output of CLIP has this attribute

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{name} is not in image embeddings of Kandinsky 2.2: they are the last that CLIP "
            "makes of a picture. Connect CLIP Vision Encode to what wants more of its layers."
        )


class ComfyImageEncoder:
    """The image encoder of a prior that has ComfyUI's CLIP Vision, or none."""

    def __init__(self, clip_vision: Any, width: int):
        """Raise ValueError if the CLIP Vision does not make embeddings of `width`."""
        self.clip_vision = clip_vision
        self._zero_embeds: ImageEmbeds | None = None
        projection = getattr(getattr(clip_vision, "model", None), "visual_projection", None)
        weight = getattr(projection, "weight", None)
        found = None if weight is None else weight.shape[0]
        if clip_vision is not None and found != width:
            what = "makes no embeddings" if found is None else f"makes embeddings {found} wide"
            raise ValueError(
                f"The CLIP Vision that is connected {what}, and the prior's are {width} wide. "
                "Connect CLIP ViT-bigG/14, which the prior was trained with."
            )

    def get_models(self) -> list[Any]:
        return [] if self.clip_vision is None else [self.clip_vision.patcher]

    def get(self, need: str) -> "ComfyImageEncoder":
        """Return the encoder itself.

        Raises:
            ValueError: there is no CLIP Vision. `need` names what needs it.
        """
        if self.clip_vision is None:
            raise ValueError(
                f"{need} needs the prior's image encoder, and Load Prior Transformer has none. "
                "Connect Load CLIP Vision with CLIP ViT-bigG/14 to its clip_vision, or a whole "
                "prior. Without them, Prior works with a negative prompt."
            )
        return self

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (B, D) of pictures (B, 3, H, W) in [0, 1].

        CLIP Vision Encode with crop center gives the same.
        """
        self._load(min(len(pictures), CHUNK))
        images = pictures.movedim(1, -1)
        parts = [self.clip_vision.encode_image(part) for part in images.split(CHUNK)]
        return torch.cat([part.image_embeds for part in parts])

    def zero_embeds(self, need: str) -> ImageEmbeds:
        """Return the embedding of zeros, (1, D)."""
        if self._zero_embeds is None:
            vision = self.get(need).clip_vision
            self._load(1)
            zeros = torch.zeros(1, 3, vision.image_size, vision.image_size)
            output = vision.model(pixel_values=zeros.to(vision.load_device))
            self._zero_embeds = ImageEmbeds(output[2])
        return self._zero_embeds

    def _load(self, pictures: int) -> None:
        """Load the encoder.

        ComfyUI's own encode_image does not say how much memory the run needs.
        """
        embeddings = self.clip_vision.model.vision_model.embeddings
        tokens, width = embeddings.position_embedding.weight.shape
        memory = transformer_memory(torch.float32, pictures, tokens, width)
        comfy.model_management.load_models_gpu([self.clip_vision.patcher], memory_required=memory)
