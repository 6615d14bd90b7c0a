"""What a LATENT must be to be Kandinsky 2.2's."""

from typing import Any

import torch

CHANNELS = 4


def check_latent(latent: Any) -> torch.Tensor:
    """The samples of a LATENT, (B, 4, h, w) in float32; raises ValueError for another model's."""
    samples = latent.get("samples") if isinstance(latent, dict) else latent
    shape = tuple(getattr(samples, "shape", ()))
    if not torch.is_tensor(samples) or len(shape) != 4 or shape[1] != CHANNELS:
        raise ValueError(
            f"Kandinsky 2.2 latents are (batch, 4, height/8, width/8), not {shape or samples!r}: "
            "this LATENT is for another model. Use Empty Latent Image, or VAE Encode with the "
            "VAE of Load Decoder (Kandinsky 2.2)."
        )
    indices = latent.get("batch_index", range(shape[0])) if isinstance(latent, dict) else samples
    if len(indices) != shape[0]:
        raise ValueError(
            f"This LATENT has {shape[0]} items and a batch_index of {len(indices)}: the node that "
            "made it left an old one there. Remake the latent."
        )
    return samples.float()
