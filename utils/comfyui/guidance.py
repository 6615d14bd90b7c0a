"""ComfyUI's own guidance in a stage: what other nodes put on a MODEL for samplers to run.

A stage runs diffusers' loop, and with nothing such on the MODEL nothing here is used. Else that
loop runs where ComfyUI runs a sampler's, inside of all wrappers, and asks its guider at each step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.samplers
import torch

from ..kandinsky import decoder
from .conditioning import HINT, KEEP, PICTURE, Conditioning
from .model_options import TIMESTEP
from .stage_plan import StagePlan

# Runs a stage on (noise, prediction, embeds, cfg of each step, concat): see `stages.run`.
Loop = Callable[
    [torch.Tensor, decoder.Predict, torch.Tensor, Sequence[float], torch.Tensor | None],
    torch.Tensor,
]


class StageGuider(comfy.samplers.CFGGuider):
    """ComfyUI's guider, with guidance above cfg 1 only, as in the stages."""

    def predict_noise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.cfg = max(self.cfg, 1.0)
        return super().predict_noise(*args, **kwargs)


class StageSampler(comfy.samplers.Sampler):
    """Has the stage's loop run where ComfyUI runs the loop of a sampler."""

    def __init__(self, loop: Callable[[torch.Tensor, decoder.Predict], torch.Tensor]):
        self.loop = loop

    def sample(  # type: ignore[override]
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        """`model_wrap` is the guider: (x, sigma) → ComfyUI's estimate of the finished latents."""
        cfg = model_wrap.cfg
        sampling = model_wrap.inner_model.model_sampling
        options = extra_args["model_options"]["transformer_options"]

        def predict(x: torch.Tensor, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            """x is in the scale of diffusers, in which signal and noise have variance 1."""
            model_wrap.cfg = cfg
            options[TIMESTEP] = float(t)  # some lie between those that the model was trained on
            sigma = sampling.sigma(t).to(x).expand(len(x))
            x = x * (1 + sigma[0] ** 2).sqrt()
            denoised = model_wrap(x, sigma, **extra_args)
            # What the UNet would have to give for that estimate, which is linear in it.
            zero, one = (
                sampling.calculate_denoised(sigma, torch.full_like(x, value), x)
                for value in (0.0, 1.0)
            )
            output = (zero - denoised) / (zero - one)
            return torch.cat([output, torch.zeros_like(output)], dim=1)  # and no variance

        return self.loop(noise, predict)


def run_guided(
    model: Any, plan: StagePlan, noise: torch.Tensor, picture: torch.Tensor, keep: Any, loop: Loop
) -> torch.Tensor:
    """Latents of a stage's loop, with ComfyUI's guidance in every step."""
    beside: dict[str, Any] = {}
    if plan.hint is not None:
        beside[HINT] = plan.hint.movedim(1, -1)
    if plan.mask_shown:
        beside |= {PICTURE: picture, KEEP: keep}
    *negative, positive = [[[embeds[:, None], beside]] for embeds in plan.embeds]
    conditions: dict[str, Conditioning] = {"positive": positive}
    if negative:
        conditions["negative"] = negative[0]
    guider = StageGuider(model)
    guider.inner_set_conds(conditions)
    guider.set_cfg(plan.sampling.cfg)
    sigmas = model.get_model_object("model_sampling").sigma(plan.timesteps)
    sigmas = torch.cat([sigmas, torch.zeros(1)])  # ComfyUI's list ends with no noise
    seed = plan.sampling.seed
    alone = [1.0] * len(plan.timesteps)  # the guider guides

    def on_noise(noise: torch.Tensor, predict: decoder.Predict) -> torch.Tensor:
        return loop(noise, predict, plan.embeds[-1], alone, None)

    return guider.sample(
        noise, picture, StageSampler(on_noise), sigmas, disable_pbar=True, seed=seed
    )
