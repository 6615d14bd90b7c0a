"""Check that a LATENT fits Kandinsky 2.2."""

from typing import Any

import torch

from .checks import check_whole_numbers

CHANNELS = 4


def check_samples(samples: Any) -> None:
    """Raise ValueError unless the samples are (B, 4, h, w) and not empty."""
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
    """Return the samples of a LATENT, (B, 4, h, w) in float32.

    Raises:
        ValueError: it is a LATENT of another model.
    """
    samples: Any = latent.get("samples") if isinstance(latent, dict) else latent
    check_samples(samples)
    if isinstance(latent, dict):
        noise_indices(latent, len(samples))
    return samples.float()


def noise_indices(latent: dict[str, Any], count: int) -> list[int]:
    """Return which noise each item of a LATENT gets: its batch_index, or its position.

    Raises:
        ValueError: there are more or fewer indices than items, or one is not a whole number.
    """
    given = latent.get("batch_index")
    try:
        indices = list(range(count) if given is None else given)
    except TypeError:
        indices = [given]
    if len(indices) != count:
        raise ValueError(
            f"This LATENT has {count} items and a batch_index of {len(indices)}: the node "
            "that made it left an old one there. Remake the latent."
        )
    return [check_whole_numbers(**{"batch_index of the LATENT": index})[0] for index in indices]
