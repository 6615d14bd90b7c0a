"""ComfyUI's own guidance in a stage: the functions that other nodes put on a MODEL for samplers.

A stage runs diffusers' loop. Without such functions on the MODEL, nothing here is used. Otherwise
that loop runs in the place of a sampler's loop, inside all wrappers, and calls ComfyUI's guider at
each step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.samplers
import torch

from ..kandinsky import decoder
from .conditioning import HINT, KEEP, PICTURE, Conditioning
from .model_options import TIMESTEP
from .stage_plan import StagePlan

# Run a stage on (noise, prediction, embeds, cfg of each step, concat); see `stages.run`.
Loop = Callable[
    [torch.Tensor, decoder.Predict, torch.Tensor, Sequence[float], torch.Tensor | None],
    torch.Tensor,
]


class StageGuider(comfy.samplers.CFGGuider):
    """ComfyUI's guider, with guidance only above cfg 1, as in the stages."""

    def predict_noise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.cfg = max(self.cfg, 1.0)
        return super().predict_noise(*args, **kwargs)


class StageSampler(comfy.samplers.Sampler):
    """A sampler of ComfyUI that runs the stage's loop."""

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
        """Run the loop. `model_wrap` is the guider: (x, sigma) → ComfyUI's predicted x0."""
        cfg = model_wrap.cfg
        sampling = model_wrap.inner_model.model_sampling
        options = extra_args["model_options"]["transformer_options"]

        def predict(x: torch.Tensor, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            """Predict for x in diffusers' scale, in which signal and noise have variance 1."""
            model_wrap.cfg = cfg
            # Some lie between the timesteps that the model was trained on.
            options[TIMESTEP] = float(t)
            sigma = sampling.sigma(t).to(x).expand(len(x))
            x = x * (1 + sigma[0] ** 2).sqrt()
            denoised = model_wrap(x, sigma, **extra_args)
            # Find the output of the UNet that would give this x0. The relation is linear.
            zero, one = (
                sampling.calculate_denoised(sigma, torch.full_like(x, value), x)
                for value in (0.0, 1.0)
            )
            output = (zero - denoised) / (zero - one)
            # Zeros in place of the variance.
            return torch.cat([output, torch.zeros_like(output)], dim=1)

        return self.loop(noise, predict)


def run_guided(
    model: Any, plan: StagePlan, noise: torch.Tensor, picture: torch.Tensor, keep: Any, loop: Loop
) -> torch.Tensor:
    """Return the latents of a stage's loop, with ComfyUI's guidance in every step."""
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
    alone = [1.0] * len(plan.timesteps)  # the guider guides, so the loop does not

    def on_noise(noise: torch.Tensor, predict: decoder.Predict) -> torch.Tensor:
        return loop(noise, predict, plan.embeds[-1], alone, None)

    return guider.sample(
        noise, picture, StageSampler(on_noise), sigmas, disable_pbar=True, seed=seed
    )
