"""DDPM and unCLIP steps that get their coefficients and noise from the CPU without a wait.

They compute what diffusers' `DDPMScheduler.step` and `UnCLIPScheduler.step` compute, bit for bit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, UnCLIPScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput

from .noise import draw_noise, send

# The variance types that do not depend on the output of the UNet.
FIXED = ("fixed_small", "fixed_small_log", "fixed_large")


@dataclass(frozen=True)
class Step:
    """The coefficients of one step, as tensors () on the CPU, which a device reads without a wait.

    The predicted x0 is (sample - `sigma` · epsilon) / `alpha`. The next sample is `finished` · x0 +
    `sample` · sample + `noise` · noise.
    """

    sigma: torch.Tensor
    alpha: torch.Tensor
    finished: torch.Tensor
    sample: torch.Tensor
    noise: torch.Tensor | None


def ddpm_steps(scheduler: Any) -> dict[int, Step]:
    """Return timestep → the coefficients that DDPMScheduler computes for it, for a whole run."""
    timesteps = scheduler.timesteps.cpu()
    after = torch.cat([timesteps[1:], torch.tensor([-1])])
    alpha, alphas_after = scheduler.alphas_cumprod[timesteps], scheduler.alphas_cumprod[after]
    alpha_after = torch.where(after >= 0, alphas_after, scheduler.one)
    rest, rest_after, current = 1 - alpha, 1 - alpha_after, alpha / alpha_after
    variance = 1 - current
    if scheduler.config.variance_type != "fixed_large":
        variance = torch.clamp(rest_after / rest * variance, min=1e-20)
    logarithmic = scheduler.config.variance_type == "fixed_small_log"
    noise = torch.exp(0.5 * torch.log(variance)) if logarithmic else variance**0.5
    finished = alpha_after**0.5 * (1 - current) / rest
    times = timesteps.tolist()
    # No noise is added to the finished picture.
    added = [one if t else None for t, one in zip(times, noise, strict=True)]
    columns = rest**0.5, alpha**0.5, finished, current**0.5 * rest_after / rest, added
    return {t: Step(*row) for t, *row in zip(times, *columns, strict=True)}


def unclip_step(scheduler: Any, t: torch.Tensor, previous: torch.Tensor | None) -> Step:
    """Return the coefficients that UnCLIPScheduler computes for a timestep and the next one."""
    previous = t - 1 if previous is None else previous
    alpha, one = scheduler.alphas_cumprod[t], scheduler.one
    alpha_after = scheduler.alphas_cumprod[previous] if previous >= 0 else one
    rest, rest_after = 1 - alpha, 1 - alpha_after
    beta, current = scheduler.betas[t], scheduler.alphas[t]
    if previous != t - 1:
        beta = 1 - alpha / alpha_after
        current = 1 - beta
    noise = scheduler._get_variance(t, prev_timestep=previous) if t > 0 else None
    finished = alpha_after**0.5 * beta / rest
    return Step(rest**0.5, alpha**0.5, finished, current**0.5 * rest_after / rest, noise)


def take_step(scheduler: Any, step: Step, output: Any, sample: Any, generators: Any) -> Any:
    """Return the next sample and the predicted x0."""
    config = scheduler.config
    if config.prediction_type == "epsilon":
        estimate = (sample - step.sigma * output) / step.alpha
    elif config.prediction_type == "v_prediction":
        estimate = step.alpha * sample - step.sigma * output
    else:
        estimate = output
    if config.clip_sample:
        estimate = estimate.clamp(-config.clip_sample_range, config.clip_sample_range)
    after = step.finished * estimate + step.sample * sample
    if step.noise is not None:
        noise = draw_noise(output.shape, generators)
        after = after + step.noise * send(noise, output.device)
    return DDPMSchedulerOutput(prev_sample=after, pred_original_sample=estimate)


def is_lean(scheduler: Any, generators: Any) -> bool:
    """Return whether coefficients ignore the output, and each item has its own generator."""
    if not isinstance(generators, list) or getattr(scheduler, "custom_timesteps", False):
        return False
    config = scheduler.config
    return config.variance_type in FIXED and not getattr(config, "thresholding", False)


class LeanDDPM(DDPMScheduler):
    table: dict[int, Step] | None = None  # of this run

    def set_timesteps(self, *args: Any, **options: Any) -> None:
        super().set_timesteps(*args, **options)
        self.table = None

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        if not (return_dict and is_lean(self, generator)):
            return super().step(model_output, timestep, sample, generator, return_dict)
        self.table = self.table or ddpm_steps(self)
        return take_step(self, self.table[int(timestep)], model_output, sample, generator)


class LeanUnCLIP(UnCLIPScheduler):
    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        prev_timestep: Any = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        if not (return_dict and is_lean(self, generator)):
            return super().step(
                model_output, timestep, sample, prev_timestep, generator, return_dict
            )
        step = unclip_step(self, timestep, prev_timestep)
        return take_step(self, step, model_output, sample, generator)
