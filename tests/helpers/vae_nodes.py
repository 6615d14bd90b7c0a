"""Run pictures and latents through ComfyUI's VAE Encode and VAE Decode."""

import torch

import nodes


def random_picture(batch=1, height=64, width=64, channels=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, height, width, channels, generator=generator)


def random_latents(batch=1, height=8, width=8) -> torch.Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(1))


def encode(vae, image) -> torch.Tensor:
    return nodes.VAEEncode().encode(vae, image)[0]["samples"]


def decode(vae, latents) -> torch.Tensor:
    return nodes.VAEDecode().decode(vae, {"samples": latents})[0]


def as_image(sample: torch.Tensor) -> torch.Tensor:
    """Return what diffusers' MoVQ decodes as an IMAGE."""
    return (sample * 0.5 + 0.5).clamp(0, 1).movedim(1, -1)
