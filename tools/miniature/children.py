"""The UNet's children, fine-tuned from it: inpainting, and depth control."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from .dataset import choose_partners, find_partners
from .hint import hint_features, load_hint_block, train_hint_block
from .shapes import Scenes
from .training import train
from .unet import BATCH, GRID, DiffusionLoss, build_unet, load_training_set, load_unet

INPAINT_STEPS, CONTROLNET_STEPS = 500, 900


def grow_from(base: UNet2DConditionModel, kind: str) -> UNet2DConditionModel:
    """Return a child UNet that equals the base: its extra input channels have zero weights."""
    child = build_unet(kind)
    state = base.state_dict()
    first = torch.zeros_like(child.conv_in.weight)
    first[:, :4] = state["conv_in.weight"]
    state["conv_in.weight"] = first
    child.load_state_dict(state, strict=False)
    return child


def draw_masks(scenes: Scenes, generator: torch.Generator) -> torch.Tensor:
    """Return (B, 1, 16, 16) kept cells: 0 around the object, in a random box, or everywhere."""
    n = len(scenes)
    kind = torch.rand(n, generator=generator)
    half = torch.where(
        (kind < 0.55)[:, None],
        scenes.radius[:, None] * (1.0 + 0.5 * torch.rand(n, 2, generator=generator)),
        12 + 50 * torch.rand(n, 2, generator=generator),
    )
    anywhere = 128 * torch.rand(n, 2, generator=generator)
    middle = torch.where((kind < 0.55)[:, None], scenes.centre, anywhere)
    cells = (torch.arange(GRID) + 0.5) * 8
    across = (cells - middle[:, :1]).abs() < half[:, :1]
    down = (cells - middle[:, 1:]).abs() < half[:, 1:]
    repaint = across[:, None, :] & down[:, :, None]
    repaint |= (kind > 0.88).view(-1, 1, 1)
    return 1 - repaint[:, None].float()


def train_inpaint(work: Path, seed: int, steps: int = INPAINT_STEPS) -> None:
    """Fine-tune the base UNet with the picture around a hole. Kept cells are 1, as in Inpaint."""
    latents, embeds, zero, scenes = load_training_set(work)
    torch.manual_seed(seed)
    unet = grow_from(load_unet(work), "inpaint").train().requires_grad_(True)
    diffusion = DiffusionLoss(unet, zero)

    def loss_fn(step: int, generator: torch.Generator):
        index = torch.randint(0, len(latents), (BATCH,), generator=generator)
        keep = draw_masks(scenes[index], generator)
        extra = torch.cat([latents[index] * keep, keep], 1)
        return diffusion(latents[index], embeds[index], generator, extra=extra)

    train("inpaint", unet, loss_fn, steps, 6e-4, work, seed, decay=0.995)


def train_controlnet(work: Path, seed: int, steps: int = CONTROLNET_STEPS) -> None:
    """Fine-tune the base UNet with a depth map.

    Its embedding often comes from *another* picture of the same colours. Only then does the hint
    decide place, size and shape.
    """
    latents, embeds, zero, scenes = load_training_set(work)
    torch.manual_seed(seed)
    unet = grow_from(load_unet(work), "controlnet").train().requires_grad_(True)
    train_hint_block(unet.add_embedding.input_hint_block, work, seed)
    features = hint_features(load_hint_block(unet, work), scenes, work)
    unet.add_embedding.input_hint_block = torch.nn.Identity()  # its output is stored
    partners = find_partners(scenes, seed)
    diffusion = DiffusionLoss(unet, zero)

    def loss_fn(step: int, generator: torch.Generator):
        index = torch.randint(0, len(latents), (BATCH,), generator=generator)
        other = torch.rand(BATCH, generator=generator) < 0.65
        source = torch.where(other, choose_partners(partners, index, generator), index)
        hint = features[index]
        hint = hint + 0.05 * torch.randn(hint.shape, generator=generator)
        return diffusion(latents[index], embeds[source], generator, hint=hint)

    train("controlnet", unet, loss_fn, steps, 8e-4, work, seed, decay=0.996)
