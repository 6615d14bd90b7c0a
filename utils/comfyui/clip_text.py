"""ComfyUI's CLIP as the text encoder of a prior."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

from ..kandinsky import prior
from .residents import transformer_memory

OPTIONS = ("layer", "layer_idx", "return_projected_pooled", "execution_device")


@contextmanager
def last_layer(encoder: Any, device: torch.device) -> Generator[None]:
    """Have an encoder of ComfyUI return its last layer, normed, and its projection."""
    before = {name: getattr(encoder, name) for name in OPTIONS}
    try:
        encoder.set_clip_options(
            {"layer": None, "projected_pooled": True, "execution_device": device}
        )
        yield
    finally:
        for name, value in before.items():
            setattr(encoder, name, value)


class ComfyTextEncoder:
    """Prompts → the text features that the prior reads, by CLIP ViT-bigG/14 in ComfyUI's CLIP.

    The CLIP may have other encoders, too, as SDXL's has. Prompts are plain text. The layer that
    CLIP Set Last Layer asks for is meant for another model, and is ignored.
    """

    def __init__(self, clip: Any, width: int, length: int):
        """Check that a CLIP fits a prior.

        Args:
            width, length: of the embeddings and the tokens that the prior's transformer takes.

        Raises:
            ValueError: it is not a CLIP, has no bigG, or has another width or length.
        """
        encoder: Any = getattr(getattr(clip, "cond_stage_model", None), "clip_g", None)
        words = getattr(getattr(clip, "tokenizer", None), "clip_g", None)
        if encoder is None or words is None:
            kind = type(getattr(clip, "cond_stage_model", clip)).__name__
            raise ValueError(
                f"This CLIP ({kind:.80}) has no CLIP ViT-bigG/14, which the prior reads. Connect "
                "SDXL's CLIP, or Load CLIP with SDXL's clip_g file alone."
            )
        self.clip, self.encoder, self.tokenizer = clip, encoder, words.tokenizer
        network = encoder.transformer
        places = network.text_model.embeddings.position_embedding.weight.shape
        found = (network.text_projection.weight.shape[0], places[1], places[0])
        if found != (width, width, length):
            raise ValueError(
                f"The CLIP that is connected is {found[0]} wide and takes {found[2]} tokens, and "
                f"the prior wants {width} and {length}. Connect the CLIP it was trained with."
            )
        self.width, self.length = width, length

    @property
    def patcher(self) -> Any:
        return self.clip.patcher

    def encode(self, prompts: list[str]) -> prior.TextFeatures:
        tokens = prior.tokenize_prompts(self.tokenizer, prompts, self.length).input_ids
        ends = tokens == self.tokenizer.eos_token_id
        # True up to the first end token, and for that token.
        mask = ends.cumsum(1) - ends.long() == 0
        memory = transformer_memory(torch.float32, *tokens.shape, self.width)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory)
        device = self.patcher.load_device
        with last_layer(self.encoder, device):
            states, embeds = self.encoder.encode(tokens.tolist())[:2]
        return prior.TextFeatures(embeds, states, mask.to(states.device))
