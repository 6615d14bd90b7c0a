"""CLIP's two encoders in ComfyUI. Each loads itself inside the method that needs it.

They run where ComfyUI runs text encoders, as its own CLIP and CLIP Vision do. Their dtype follows
--fp32-text-enc and similar options; see `dtypes.pick_clip_dtypes`.
"""

from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ..files.configs import naming, read_json
from ..files.model_kinds import prior_part
from ..files.weights import build_module
from ..kandinsky import prior
from ..kandinsky.images import CHUNK
from .dtypes import pick_clip_dtypes, pick_ops
from .residents import Resident


class Encoder(Resident):
    """One of CLIP's encoders, read from its folder and kept where ComfyUI keeps text encoders."""

    schema: Any  # the class of its config

    def __init__(self, folder: Path, weight_dtype: str):
        """Read an encoder from `folder`, which has config.json and the weights."""
        device = comfy.model_management.text_encoder_device()
        weights, compute = pick_clip_dtypes(weight_dtype, device)
        ops = pick_ops(weights, compute)
        module = build_module(self.build, self.schema, folder, weights, ops)
        super().__init__(
            module, compute, device, comfy.model_management.text_encoder_offload_device()
        )
        self.config: Any = module.config

    @staticmethod
    def build(config: dict[str, Any]) -> Any:
        raise NotImplementedError


class TextEncoder(Encoder):
    """Prompts → the text features that the prior reads."""

    schema = CLIPTextConfig

    def __init__(self, folder: Path, weight_dtype: str):
        """Read the encoder from a prior's `folder`, which has `text_encoder` and `tokenizer`."""
        tokenizer = prior_part(folder, "tokenizer")
        # Raises an error with its name if it is damaged.
        read_json(tokenizer / "tokenizer_config.json")
        super().__init__(prior_part(folder, "text_encoder"), weight_dtype)
        with naming(tokenizer):
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
            length, size = self.config.max_position_embeddings, self.config.vocab_size
            # The prior needs this length, whatever the tokenizer's settings say.
            self.tokenizer.model_max_length = length
            ids = prior.tokenize(self.tokenizer, ["a b"], length).input_ids
            if ids.max() >= size:
                raise ValueError(f"token {ids.max()} is not one of the text encoder's {size}")
        with naming(prior_part(folder, "text_encoder") / "config.json"):
            if not isinstance(self.config.eos_token_id, int):
                raise ValueError(f"eos_token_id is {self.config.eos_token_id!r:.40}, not a token")

    @staticmethod
    def build(config: dict[str, Any]) -> Any:
        return CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config))

    def encode(self, prompts: list[str]) -> prior.TextFeatures:
        config = self.config
        module = self.load(len(prompts), config.max_position_embeddings, config.hidden_size)
        return prior.encode_text(self.tokenizer, module, prompts, self.device)


class ImageEncoder(Encoder):
    """Pictures → image embeddings."""

    schema = CLIPVisionConfig

    def __init__(self, folder: Path, weight_dtype: str, processor: Any):
        """Read the encoder from `folder`, which has config.json and the weights."""
        super().__init__(folder, weight_dtype)
        self.processor = processor

    @staticmethod
    def build(config: dict[str, Any]) -> Any:
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return image embeddings (B, D) of pictures (B, 3, H, W) in [0, 1]."""
        module = self._load(len(pictures))
        return prior.encode_images(self.processor, module, pictures, self.device, self.dtype)

    def encode_zero_image(self) -> torch.Tensor:
        """Return the embedding of zeros, which is a picture of CLIP's average colour, (1, D)."""
        return prior.encode_zero_image(self._load(1), self.device, self.dtype)

    def _load(self, pictures: int) -> Any:
        tokens = (self.config.image_size // self.config.patch_size) ** 2 + 1
        return self.load(min(pictures, CHUNK), tokens, self.config.hidden_size)
