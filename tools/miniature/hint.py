"""The controlnet's hint block: a depth map to four channels on the latent grid.

It is trained first and alone, to say where the object is. Then its output for every training
picture is stored, so training the UNet around it costs no more than training the base.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn
from tqdm import tqdm

from .dataset import load_dataset
from .shapes import Scenes, draw_depth
from .training import load_average, load_stored, save_atomic, train

STEPS = 300


def make_hint(depth: torch.Tensor) -> torch.Tensor:
    """Return depth (N, 1, H, W) as a hint (N, 3, H, W), stretched to [0, 1] as in the pipeline."""
    low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    return ((depth - low) / (high - low).clamp(min=1e-4)).expand(-1, 3, -1, -1).contiguous()


def grid_target(hint: torch.Tensor) -> torch.Tensor:
    """Return (N, 4, h/8, w/8): cover, its slope to the right and down, a finer part of the cell."""
    mask = ((hint[:, :1] - 0.5) * 4 + 0.5).clamp(0, 1)
    quarter = F.avg_pool2d(mask, 4)
    cell = F.avg_pool2d(quarter, 2)
    a, b = quarter[..., ::2, ::2], quarter[..., ::2, 1::2]
    c, d = quarter[..., 1::2, ::2], quarter[..., 1::2, 1::2]
    return torch.cat([2 * cell - 1, b + d - a - c, c + d - a - b, a + d - b - c], 1)


def train_hint_block(block: nn.Sequential, work: Path, seed: int, steps: int = STEPS) -> None:
    """Teach the block to find the object, in hints stretched or not, sharp or soft."""
    _, scenes = load_dataset(work)
    torch.manual_seed(seed)
    for layer in block:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def loss_fn(step: int, generator: torch.Generator):
        index = torch.randint(0, len(scenes), (6,), generator=generator)
        hint = make_hint(draw_depth(scenes[index]))
        target = grid_target(hint)
        if step % 3 == 0:
            hint = F.avg_pool2d(F.pad(hint, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        scale = 0.7 + 0.3 * torch.rand(len(hint), 1, 1, 1, generator=generator)
        hint = (hint * scale + 0.03 * torch.randn(hint.shape, generator=generator)).clamp(0, 1)
        error = F.mse_loss(block(hint), target)
        return error, {}

    train("hint", block.train(), loss_fn, steps, 1.5e-3, work, seed, decay=0.98)


def load_hint_block(unet: UNet2DConditionModel, work: Path) -> nn.Sequential:
    """Load the UNet's hint block with the trained weights, frozen."""
    return load_average("hint", unet.add_embedding.input_hint_block, work)


@torch.no_grad()
def hint_features(block: nn.Sequential, scenes: Scenes, work: Path) -> torch.Tensor:
    """Return (N, 4, 16, 16), the block's output for every scene, stored in `hints.pt`."""
    path = work / "hints.pt"
    if not path.exists():
        starts = tqdm(range(0, len(scenes), 64), desc="hints", mininterval=10)
        parts = [block(make_hint(draw_depth(scenes[i : i + 64]))) for i in starts]
        save_atomic(torch.cat(parts), path)
    return load_stored(path, "controlnet")
