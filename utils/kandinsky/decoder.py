"""The decoder: image embeddings → latents. One denoising loop serves all five decoding stages.

The loop computes what diffusers' `KandinskyV22Pipeline`, `…Img2ImgPipeline`, `…InpaintPipeline`,
`…ControlnetPipeline` and `…ControlnetImg2ImgPipeline` compute. The stages differ only in the
arguments. Classifier-free guidance: Ho & Salimans, https://arxiv.org/abs/2207.12598.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .latents import CHANNELS
from .noise import add_noise

# (x (N, C, h, w), t (), embeds (N, D)) → (N, 8, h, w): epsilon, then variance
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# Called after each step with (index, number of steps, latents, predicted x0).
OnDecoderStep = Callable[[int, int, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True, eq=False)
class Preserve:
    """A picture of which some parts stay. They are put back after each step, noised to its level.

    `latents` and `noise` are (B, 4, h, w). `keep` is (B, 1, h, w): 1 stays, 0 is repainted.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    keep: torch.Tensor
    repaint: torch.Tensor = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "repaint", 1 - self.keep)

    def put_back(
        self, scheduler: Any, latents: torch.Tensor, next_t: torch.Tensor | None
    ) -> torch.Tensor:
        original = self.latents
        if next_t is not None:
            original = add_noise(scheduler, original, self.noise, next_t[None])
        return self.keep * original + self.repaint * latents


def predict_noise(
    predict: Predict,
    x: torch.Tensor,
    t: torch.Tensor,
    embeds: torch.Tensor,
    cfg: float,
    with_variance: bool,
    concat: torch.Tensor | None,
) -> torch.Tensor:
    """Return one prediction for (B, 4, h, w): epsilon, followed by the variance if asked for.

    Above cfg 1 the prediction is guided: `embeds` is (2B, D) with the negative embeddings first,
    and both halves go through the UNet in one call. Otherwise only the last B rows of `embeds` and
    `concat` are used.
    """
    guided = cfg > 1
    if guided:
        x = torch.cat([x, x])
    if concat is not None:
        x = torch.cat([x, concat[-len(x) :]], dim=1)
    output = predict(x, t, embeds[-len(x) :])
    epsilon, variance = output.split(CHANNELS, dim=1)
    if guided:
        negative, positive = epsilon.chunk(2)
        epsilon = negative + cfg * (positive - negative)
        variance = variance.chunk(2)[1]
    return torch.cat([epsilon, variance], dim=1) if with_variance else epsilon


def step_options(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Return the arguments of a scheduler's `step` beside the prediction."""
    known = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"generator": generators} if "generator" in known else {}
    # Where DDIM clips the predicted x0, the noise must be the one that leads to the clipped x0, as
    # in guided-diffusion. By default diffusers uses the other noise. With guidance, the errors add
    # up, and from some 20 steps on nothing is left of the picture.
    if "use_clipped_model_output" in known and scheduler.config.clip_sample:
        options["use_clipped_model_output"] = True
    return options


def denoise(
    predict: Predict,
    scheduler: Any,
    timesteps: torch.Tensor,
    latents: torch.Tensor,
    embeds: torch.Tensor,
    cfg: Sequence[float],
    generators: list[torch.Generator],
    *,
    concat: torch.Tensor | None = None,
    preserve: Preserve | None = None,
    on_step: OnDecoderStep | None = None,
) -> torch.Tensor:
    """Denoise (B, 4, h, w) over `timesteps`. The scheduler does everything but the guidance.

    Args:
        timesteps: on the CPU, where schedulers read them without waiting for the device.
        embeds: (B, D), or (2B, D) with the negative embeddings first for guidance.
        cfg: one value for each timestep. At 1 or below, the prediction is not guided.
        concat: rows for the rows of `embeds`, (…, 5, h, w), that are appended to the UNet's input.
            They show the inpaint UNet what stays of the picture.
        preserve: parts of a picture that stay as they are.
    """
    with_variance = getattr(scheduler.config, "variance_type", None) in ("learned", "learned_range")
    order = getattr(scheduler, "order", 1)
    options = step_options(scheduler, generators)
    # One copy for all steps, so that no step waits.
    there = timesteps.to(latents.device, torch.float32)
    for i, t in enumerate(timesteps):
        x = scheduler.scale_model_input(latents, t)
        noise = predict_noise(predict, x, there[i], embeds, cfg[i], with_variance, concat)
        step = scheduler.step(noise, t, latents, **options)
        latents = step.prev_sample
        next_t = timesteps[i + 1] if i + 1 < len(timesteps) else None
        # Between the two calls of a second-order step there is no noise level at which to put it
        # back.
        if preserve is not None and (next_t is None or (i + 1) % order == 0):
            latents = preserve.put_back(scheduler, latents, next_t)
        if on_step is not None:
            finished = getattr(step, "pred_original_sample", None)
            on_step(i, len(timesteps), latents, latents if finished is None else finished)
    return latents
