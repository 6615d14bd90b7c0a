"""What a LATENT must be to be Kandinsky 2.2's."""

from typing import Any

import torch

CHANNELS = 4


def check_samples(samples: Any) -> None:
    """Raises ValueError unless these are (B, 4, h, w), of some size."""
    shape = tuple(getattr(samples, "shape", ()))
    if not torch.is_tensor(samples) or len(shape) != 4 or shape[1] != CHANNELS:
        raise ValueError(
            f"Kandinsky 2.2 latents are (batch, 4, height/8, width/8), not {shape or samples!r}: "
            "this LATENT is for another model. Use Empty Latent Image, or VAE Encode with the "
            "VAE of Load Decoder (Kandinsky 2.2)."
        )
    if 0 in shape[2:]:
        raise ValueError(f"This LATENT is empty: {shape}. Make it of some size.")


def check_latent(latent: Any) -> torch.Tensor:
    """The samples of a LATENT, (B, 4, h, w) in float32; raises ValueError for another model's."""
    samples: Any = latent.get("samples") if isinstance(latent, dict) else latent
    check_samples(samples)
    indices: Any = latent.get("batch_index", samples) if isinstance(latent, dict) else samples
    if len(indices) != len(samples):
        raise ValueError(
            f"This LATENT has {len(samples)} items and a batch_index of {len(indices)}: the node "
            "that made it left an old one there. Remake the latent."
        )
    return samples.float()
