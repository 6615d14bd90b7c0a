"""CLIP's two small towers, the image processor, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .tokens import LENGTH, build_tokenizer
from .training import load_stored

PIXELS, PATCH, WIDTH, EMBED = 64, 16, 128, 64


def build_text_encoder() -> CLIPTextModelWithProjection:
    """Build an encoder 64 wide like the embedding, as the prior reads its hidden states."""
    tokenizer = build_tokenizer()
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=EMBED,
            intermediate_size=4 * EMBED,
            projection_dim=EMBED,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """Build an encoder 128 wide, with 3 layers over 16 x 16 patches and 2-D sines for positions."""
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=EMBED,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=PIXELS,
            patch_size=PATCH,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("position_embedding.weight"):
                parameter[1:] = sine_positions(PIXELS // PATCH, WIDTH)
            if name.endswith("patch_embedding.weight"):
                nn.init.normal_(parameter, std=0.04)
    return model


def sine_positions(side: int, width: int) -> torch.Tensor:
    """Return (side * side, width): sines and cosines of y, then of x."""
    quarter = width // 4
    frequency = 1 / 100 ** (torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], 1)  # (side, width / 2)
    rows = line[:, None].expand(side, side, -1)
    return torch.cat([rows, line[None].expand(side, side, -1)], 2).reshape(side * side, width) * 0.5


def build_image_processor() -> CLIPImageProcessor:
    """Build a processor: short edge to 64, centre crop, bicubic, OpenAI's mean and deviation."""
    return CLIPImageProcessor(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}, resample=3
    )


def prepare_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Return (N, 3, H, W) in [0, 1] as the image processor gives it to the image encoder."""
    small = F.interpolate(pictures, (PIXELS, PIXELS), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (small - mean) / std


def load_clip(work: Path) -> tuple[CLIPTextModelWithProjection, CLIPVisionModelWithProjection]:
    """Load the text and the image encoder, frozen."""
    state = load_stored(work / "clip.pt", "clip")
    text, vision = build_text_encoder(), build_image_encoder()
    text.load_state_dict(state["text"])
    vision.load_state_dict(state["vision"])
    return text.eval().requires_grad_(False), vision.eval().requires_grad_(False)


@torch.no_grad()
def zero_embedding(vision: CLIPVisionModelWithProjection) -> torch.Tensor:
    """Return (1, 64): the embedding of zero pixels, which the pipelines use as "no negative"."""
    return vision(torch.zeros(1, 3, PIXELS, PIXELS)).image_embeds
