"""MoVQ: the picture encoder, frozen early, and its decoder, refined while the UNet trains.

The encoder learns against a light decoder that works on the latent grid only, which is several
times cheaper than MoVQ's own. Latents are used unquantised, as the published pipelines do.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import nn
from tqdm import tqdm

from .dataset import load_dataset, to_model_range
from .speed import quicken
from .training import load_average, load_stored, log, save_atomic, seeded, train

CODES = 1024
CROP = 64  # pixels; most steps train on crops around a shape's outline
ENCODER_STEPS, DECODER_STEPS = 2400, 1800


def build_movq() -> VQModel:
    """Build a VQModel of the published kind: 8x downsampling, 4 latent channels, spatial norm."""
    return VQModel(
        down_block_types=["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
        block_out_channels=[32, 32, 64, 64],
        layers_per_block=1,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=CODES,
        norm_num_groups=8,
        norm_type="spatial",
        sample_size=128,
    )


class GridDecoder(nn.Module):
    """A decoder for training: latents (B, 4, h, w) to pixels (B, 3, 8h, 8w) by pixel shuffle."""

    def __init__(self, width: int = 128, depth: int = 4):
        super().__init__()
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 1)
            )
            for _ in range(depth)
        )
        self.last = nn.Conv2d(width, 3 * 64, 3, padding=1)
        self.mean_colour = nn.Conv2d(4, 3, 1)  # keeps a cell's colour linear in its latent

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.first(latents)
        for block in self.blocks:
            x = x + block(F.silu(x))
        colour = self.mean_colour(latents)
        pixels = F.pixel_shuffle(self.last(F.silu(x)), 8)
        return pixels + F.interpolate(colour, scale_factor=8), colour


class EncoderTrainer(nn.Module):
    """MoVQ's encoder half with the training decoder."""

    def __init__(self, movq: VQModel):
        super().__init__()
        self.encoder, self.quant_conv = movq.encoder, movq.quant_conv
        self.grid = GridDecoder()


def crop_corners(centre, radius, index, generator, align: int) -> torch.Tensor:
    """Return (B, 2) top-left corners of crops at random points of the shapes' outlines."""
    angle = torch.rand(len(index), generator=generator) * 2 * torch.pi
    point = centre[index] + radius[index, None] * torch.stack([angle.cos(), angle.sin()], 1)
    wander = (torch.rand(len(index), 2, generator=generator) - 0.5) * CROP * 0.8
    return ((point + wander - CROP / 2) / align).round().long().clamp(
        0, (128 - CROP) // align
    ) * align


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return squared error for the decibels, and absolute error for plain areas."""
    return F.mse_loss(output, target) + 0.1 * F.l1_loss(output, target)


def train_encoder(work: Path, seed: int, steps: int = ENCODER_STEPS) -> None:
    """Learn the latent space, then give it unit variance and freeze it in `movq-encoder.pt`."""
    pictures, scenes = load_dataset(work)
    torch.manual_seed(seed)
    movq = build_movq()
    movq.decoder.requires_grad_(False)
    module = EncoderTrainer(movq)
    whole_from = int(steps * 0.8)

    def loss_fn(step: int, generator: torch.Generator):
        whole = step >= whole_from
        index = torch.randint(0, len(pictures), (6 if whole else 20,), generator=generator)
        pixels = pictures[index]
        if not whole:
            corners = crop_corners(scenes.centre, scenes.radius, index, generator, 1).tolist()
            crops = [
                p[:, y : y + CROP, x : x + CROP] for p, (x, y) in zip(pixels, corners, strict=True)
            ]
            pixels = torch.stack(crops)
        target = to_model_range(pixels)
        with torch.autocast(target.device.type, torch.bfloat16, enabled=not whole):
            latents = module.quant_conv(module.encoder(target)).float()
            noise = torch.randn(latents.shape, generator=generator)
            output, colour = (part.float() for part in module.grid(latents + 0.08 * noise))
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        spread = mean.square().mean() + (std - 1).square().mean()
        error = F.mse_loss(output, target)
        flat = F.mse_loss(colour, F.avg_pool2d(target, 8))
        loss = reconstruction_loss(output, target) + 0.02 * spread + 0.1 * flat
        return loss, {"mse": error.detach(), "flat": flat.detach(), "std": std.mean().detach()}

    train("movq-encoder", module, loss_fn, steps, 2e-3, work, seed, decay=0.995)
    fold_statistics(movq, pictures[:512])
    save_atomic(movq.state_dict(), work / "movq-encoder.pt")


@torch.no_grad()
def fold_statistics(movq: VQModel, pictures: torch.Tensor) -> None:
    """Scale and shift `quant_conv` so that every latent channel has mean 0 and deviation 1."""
    latents = torch.cat([movq.encode(to_model_range(p)).latents for p in pictures.split(32)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    movq.quant_conv.weight.div_(std.view(-1, 1, 1, 1))
    movq.quant_conv.bias.copy_((movq.quant_conv.bias - mean) / std)


def load_encoder(work: Path) -> VQModel:
    """Load MoVQ with the frozen encoder (its decoder is untrained)."""
    movq = build_movq()
    movq.load_state_dict(load_stored(work / "movq-encoder.pt", "movq"))
    return movq.eval().requires_grad_(False)


@torch.no_grad()
def encode_dataset(work: Path) -> None:
    """Encode every picture once, into `work/latents.pt` (N, 4, 16, 16)."""
    path = work / "latents.pt"
    if path.exists():
        return
    pictures, _ = load_dataset(work)
    movq = load_encoder(work)
    parts = [
        movq.encode(to_model_range(part)).latents.contiguous()
        for part in tqdm(pictures.split(32), desc="latents", mininterval=10)
    ]
    save_atomic(torch.cat(parts), path)


def train_decoder(work: Path, seed: int, steps: int = DECODER_STEPS) -> None:
    """Train MoVQ's decoder on the frozen latents: crops first, whole pictures at the end."""
    pictures, scenes = load_dataset(work)
    latents = load_stored(work / "latents.pt", "latents")
    torch.manual_seed(seed)
    movq = load_encoder(work)
    movq.decoder.requires_grad_(True)
    movq.post_quant_conv.requires_grad_(True)
    quicken(movq)
    whole_from = int(steps * 0.75)

    def loss_fn(step: int, generator: torch.Generator):
        whole = step >= whole_from
        index = torch.randint(0, len(pictures), (3 if whole else 12,), generator=generator)
        pixels, codes = pictures[index], latents[index]
        if not whole:
            corners = crop_corners(scenes.centre, scenes.radius, index, generator, 8).tolist()
            pairs = [
                (p[:, y : y + CROP, x : x + CROP], c[:, y // 8 : (y + CROP) // 8, x // 8 :])
                for p, c, (x, y) in zip(pixels, codes, corners, strict=True)
            ]
            pixels = torch.stack([p for p, _ in pairs])
            codes = torch.stack([c[:, :, : CROP // 8] for _, c in pairs])
        target = to_model_range(pixels)
        codes = codes + 0.05 * torch.randn(codes.shape, generator=generator)
        with torch.autocast(codes.device.type, torch.bfloat16, enabled=not whole):
            output = movq.decode(codes, force_not_quantize=True).sample.float()
        loss = reconstruction_loss(output, target)
        return loss, {"mse": F.mse_loss(output, target).detach()}

    train("movq", movq, loss_fn, steps, 1.5e-3, work, seed, decay=0.998)


@torch.no_grad()
def fit_codebook(movq: VQModel, latents: torch.Tensor, seed: int, rounds: int = 10) -> None:
    """Fit k-means over latent cells, so that decoding *with* quantisation works, too."""
    generator = seeded(seed)
    cells = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    cells = cells[torch.randperm(len(cells), generator=generator)[:40_000]]
    codes = cells[:CODES].clone()
    for _ in range(rounds):
        nearest = torch.cdist(cells, codes).argmin(1)
        total = torch.zeros_like(codes).index_add_(0, nearest, cells)
        count = torch.bincount(nearest, minlength=CODES)[:, None]
        codes = torch.where(count > 0, total / count.clamp(min=1), codes)
    movq.quantize.embedding.weight.copy_(codes)
    log.info("codebook: mean distance %.4f", torch.cdist(cells, codes).amin(1).mean())


def load_movq(work: Path) -> VQModel:
    """Load the finished MoVQ, frozen."""
    return load_average("movq", build_movq(), work)
