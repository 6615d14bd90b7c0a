"""The depth estimator that makes depth maps: a small GLPN (arXiv:2201.07436)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessor

from .shapes import Scenes, draw, draw_depth, sample_scenes
from .training import load_average, train

STEPS, BATCH = 800, 10


def build_depth() -> GLPNForDepthEstimation:
    """Build four stages of 16 to 64 channels. The output is sigmoid times 1, the data's range."""
    return GLPNForDepthEstimation(
        GLPNConfig(
            depth_estimation_type="relative",  # other GLPNs predict metres
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 4],
            mlp_ratios=[2, 2, 2, 2],
            decoder_hidden_size=24,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            drop_path_rate=0.0,
            max_depth=1,
        )
    )


def spread_weights(model: torch.nn.Module) -> None:
    """Use Kaiming's scale and not transformers' 0.02, with which a narrow network hardly trains."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(layer.weight)


def build_depth_processor() -> GLPNImageProcessor:
    """Build a processor for pixels in [0, 1], with sizes rounded down to a multiple of 32.

    The model needs nothing else.
    """
    return GLPNImageProcessor(do_resize=True, size_divisor=32, do_rescale=True)


def train_depth(work: Path, seed: int, steps: int = STEPS) -> None:
    """Learn nearness from freshly drawn scenes.

    The error is squared, because with the absolute error only the floor is learned. Some pictures
    are soft or grainy, like those of MoVQ.
    """
    torch.manual_seed(seed)
    model = build_depth().train()
    spread_weights(model)

    def loss_fn(step: int, generator: torch.Generator):
        scenes: Scenes = sample_scenes(BATCH, generator, 0.3)
        pictures, target = draw(scenes), draw_depth(scenes)[:, 0]
        if step % 3 == 0:
            pictures = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        grain = 0.04 * torch.rand(BATCH, 1, 1, 1, generator=generator)
        pictures = pictures + grain * torch.randn(pictures.shape, generator=generator)
        guess = model(pixel_values=pictures.clamp(0, 1)).predicted_depth
        loss = (guess - target).square().mean() * 10
        both = ((guess > 0.4) & (target > 0.4)).sum()
        either = ((guess > 0.4) | (target > 0.4)).sum().clamp(min=1)
        return loss, {"iou": (both / either).detach()}

    train("depth", model, loss_fn, steps, 2e-3, work, seed, decay=0.995)


def load_depth(work: Path) -> GLPNForDepthEstimation:
    """Load the finished depth estimator, frozen."""
    return load_average("depth", build_depth(), work)
