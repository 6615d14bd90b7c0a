"""Run our MODEL in ComfyUI's KSampler, and make its inputs."""

import torch
from kandinsky22.nodes.conditioning import Conditioning

import nodes as host

SETTINGS = dict(steps=4, cfg=4.0, sampler_name="euler", scheduler="normal")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def canvas(batch: int = 1, height: int = 8, width: int = 8) -> dict:
    return {"samples": torch.zeros(batch, 4, height, width)}


def conditioning(embeds):
    return Conditioning.execute(embeds).args[0]


def ksampler(model, positive, negative, latent, seed=7, denoise=1.0, **settings) -> torch.Tensor:
    result = host.KSampler().sample(
        model,
        seed=seed,
        positive=positive,
        negative=negative,
        latent_image=latent,
        denoise=denoise,
        **SETTINGS | settings,
    )
    return result[0]["samples"]


def half_mask(left: bool) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    return mask if left else 1 - mask


def sigmas_of(scheduler, steps: int) -> torch.Tensor:
    """Return the noise levels of a diffusers scheduler, down to 0."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.float()
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    return torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
