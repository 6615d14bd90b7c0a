"""CLIP's two encoders in ComfyUI: each loads itself inside the verb that needs it.

They run where ComfyUI runs text encoders, as its own CLIP and CLIP Vision do, and are kept in the
dtype that its --fp32-text-enc and so on ask for; see `dtypes.pick_clip_dtypes`.
"""

from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ..files.configs import read_json
from ..files.weights import build_module
from ..kandinsky import prior
from ..kandinsky.images import CHUNK
from .dtypes import pick_clip_dtypes, pick_ops
from .residents import Resident


class Encoder(Resident):
    """One of CLIP's encoders, read from its folder and kept where ComfyUI keeps text encoders."""

    def __init__(self, folder: Path, weight_dtype: str):
        device = comfy.model_management.text_encoder_device()
        weights, compute = pick_clip_dtypes(weight_dtype, device)
        module = build_module(self.build, folder, weights, pick_ops(weights, compute))
        super().__init__(
            module, compute, device, comfy.model_management.text_encoder_offload_device()
        )
        self.config: Any = module.config

    @staticmethod
    def build(config: dict[str, Any]) -> Any:
        raise NotImplementedError


class TextEncoder(Encoder):
    """Prompts → what the prior reads of them."""

    def __init__(self, folder: Path, weight_dtype: str):
        """`folder` is the prior's, with `text_encoder` and `tokenizer` in it."""
        read_json(folder / "tokenizer" / "tokenizer_config.json")  # names it if it is damaged
        super().__init__(folder / "text_encoder", weight_dtype)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)

    @staticmethod
    def build(config: dict[str, Any]) -> Any:
        return CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config))

    def encode(self, prompts: list[str]) -> prior.TextFeatures:
        config = self.config
        module = self.load(len(prompts), config.max_position_embeddings, config.hidden_size)
        return prior.encode_text(self.tokenizer, module, prompts, self.device)


class ImageEncoder(Encoder):
    """Pictures → image embeddings."""

    def __init__(self, folder: Path, weight_dtype: str):
        """`folder` is the prior's, with `image_encoder` and `image_processor` in it."""
        processor = folder / "image_processor"
        read_json(processor / "preprocessor_config.json")  # names it if it is damaged
        super().__init__(folder / "image_encoder", weight_dtype)
        self.processor = CLIPImageProcessor.from_pretrained(processor, local_files_only=True)

    @staticmethod
    def build(config: dict[str, Any]) -> Any:
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] → (B, D)."""
        module = self._load(len(pictures))
        return prior.encode_images(self.processor, module, pictures, self.device, self.dtype)

    def encode_zero_image(self) -> torch.Tensor:
        """CLIP's view of zeros, a picture of its average colour, (1, D)."""
        return prior.encode_zero_image(self._load(1), self.device, self.dtype)

    def _load(self, pictures: int) -> Any:
        tokens = (self.config.image_size // self.config.patch_size) ** 2 + 1
        return self.load(min(pictures, CHUNK), tokens, self.config.hidden_size)
