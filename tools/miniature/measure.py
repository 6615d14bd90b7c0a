"""Runs diffusers' own pipelines for the scores: at 128 x 128, seeded."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorEmb2EmbPipeline,
    KandinskyV22PriorPipeline,
)
from PIL import Image
from transformers import GLPNForDepthEstimation, GLPNImageProcessor

from .export import CONTROLNET, DECODER, DEPTH, INPAINT, PRIOR
from .hint import make_hint
from .lora import NAME, merge_lora

STEPS, CFG, SIDE, BATCH = 25, 4.0, 128, 25


def seeded(seed: int) -> torch.Generator:
    """Return a CPU generator."""
    return torch.Generator().manual_seed(seed)


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """Convert MoVQ's [-1, 1] to [0, 1]."""
    return (pictures.float() * 0.5 + 0.5).clamp(0, 1)


def to_images(pictures: torch.Tensor) -> list[Image.Image]:
    """Convert (N, 3, H, W) in [0, 1] to PIL images."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(p) for p in pixels]


@dataclass
class Miniature:
    """The exported folders under `root`, run in fp32 through diffusers' own pipelines."""

    root: Path

    def __post_init__(self) -> None:
        self.prior = self.load(KandinskyV22PriorPipeline, PRIOR)
        self.emb2emb = KandinskyV22PriorEmb2EmbPipeline(**self.prior.components)
        self.decoder = self.load(KandinskyV22Pipeline, DECODER)
        self.img2img = KandinskyV22Img2ImgPipeline(**self.decoder.components)
        self.movq = self.decoder.movq
        for pipeline in (self.emb2emb, self.img2img):
            pipeline.set_progress_bar_config(disable=True)

    def load(self, pipeline_class, name: str):
        """Load a pipeline from one of the folders, without progress bars."""
        pipeline = pipeline_class.from_pretrained(self.root / name, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def has(self, name: str) -> bool:
        """Return whether a folder was exported."""
        return (self.root / name).exists()

    def imagine(self, prompts: list[str], seed: int, negative: list[str] | None = None):
        """Return (image_embeds, negative_image_embeds) of prompts, each (N, D)."""
        parts = []
        for start in range(0, len(prompts), BATCH):
            piece = prompts[start : start + BATCH]
            against = negative[start : start + BATCH] if negative else None
            output = self.prior(
                piece, against, num_inference_steps=STEPS, guidance_scale=CFG,
                generator=seeded(seed + start), output_type="pt",
            )  # fmt: skip
            parts.append(output.to_tuple())
        return tuple(torch.cat(column)[: len(prompts)] for column in zip(*parts, strict=True))

    def decode(self, embeds: torch.Tensor, negative: torch.Tensor, seed: int, cfg: float = CFG):
        """Return pictures (N, 3, 128, 128) in [0, 1] of embeddings (N, D)."""
        parts = []
        for start in range(0, len(embeds), BATCH):
            output = self.decoder(
                embeds[start : start + BATCH], negative[start : start + BATCH], SIDE, SIDE,
                STEPS, cfg, generator=seeded(seed + start), output_type="pt",
            )  # fmt: skip
            parts.append(to_unit(output.images))
        return torch.cat(parts)

    def decode_at_night(self, embeds: torch.Tensor, negative: torch.Tensor, seed: int):
        """Do the same as `decode`, with the night LoRA merged into the UNet's weights."""
        day = self.decoder.unet
        self.decoder.unet = deepcopy(day)
        merge_lora(self.decoder.unet, self.root / NAME)
        pictures = self.decode(embeds, negative, seed)
        self.decoder.unet = day
        return pictures

    def reconstruct(self, pictures: torch.Tensor) -> torch.Tensor:
        """Encode and decode with MoVQ, unquantised as in the pipelines."""
        with torch.no_grad():
            latents = self.movq.encode(pictures * 2 - 1).latents
            return to_unit(self.movq.decode(latents, force_not_quantize=True).sample)

    def restyle(self, pictures, embeds, negative, strength: float, seed: int) -> torch.Tensor:
        """Run img2img. `strength` is that of diffusers."""
        output = self.img2img(
            embeds, to_images(pictures), negative, SIDE, SIDE, STEPS, CFG, strength,
            generator=seeded(seed), output_type="pt",
        )  # fmt: skip
        return output.images.float()  # this pipeline returns [0, 1], unlike the others

    def repaint(self, pictures, masks, embeds, negative, seed: int) -> torch.Tensor:
        """Inpaint one by one, as the pipeline mixes up batches; masks (N, H, W), 1 = repaint."""
        pipeline = self.load(KandinskyV22InpaintPipeline, INPAINT)
        parts = []
        for i, (picture, mask) in enumerate(zip(to_images(pictures), masks, strict=True)):
            output = pipeline(
                embeds[i : i + 1], picture, mask.float().numpy(), negative[i : i + 1], SIDE, SIDE,
                STEPS, CFG, generator=seeded(seed + i), output_type="pt",
            )  # fmt: skip
            parts.append(to_unit(output.images))
        return torch.cat(parts)

    def estimate_depth(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return (N, 1, H, W) nearness."""
        folder = self.root / DEPTH
        model = GLPNForDepthEstimation.from_pretrained(folder, dtype=torch.float32).eval()
        processor = GLPNImageProcessor.from_pretrained(folder)
        inputs = processor(images=to_images(pictures), return_tensors="pt")
        with torch.no_grad():
            return model(**inputs).predicted_depth[:, None]

    def follow(self, depth: torch.Tensor, embeds, negative, seed: int) -> torch.Tensor:
        """Run controlnet, with hints stretched to [0, 1]."""
        pipeline = self.load(KandinskyV22ControlnetPipeline, CONTROLNET)
        hint = make_hint(depth)
        parts = []
        for start in range(0, len(embeds), BATCH):
            part = slice(start, start + BATCH)
            output = pipeline(
                embeds[part], negative[part], hint[part], SIDE, SIDE, STEPS, CFG,
                generator=seeded(seed + start), output_type="pt",
            )  # fmt: skip
            parts.append(to_unit(output.images))
        return torch.cat(parts)

    def time_one(self, prompt: str = "a large red circle on a blue background, on the left"):
        """Return the seconds for one picture, from text to pixels, the best of three."""
        seconds = []
        for seed in range(3):
            start = time.perf_counter()
            self.decode(*self.imagine([prompt], seed), seed)
            seconds.append(time.perf_counter() - start)
        return min(seconds)
