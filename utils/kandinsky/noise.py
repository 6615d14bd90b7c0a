"""Noise. Each item of a batch has its own CPU generator.

So its noise is the same on every device, and the item can be made again alone.
"""

from typing import Any

import torch


def item_generators(seed: int, indices: list[int]) -> list[torch.Generator]:
    """Return one CPU generator for each index, seeded with (seed + index) modulo 2**64."""
    return [torch.Generator("cpu").manual_seed((seed + index) % 2**64) for index in indices]


def draw_noise(shape: tuple[int, ...], generators: list[torch.Generator]) -> torch.Tensor:
    """Return float32 noise of `shape` on the CPU. Item i is one draw from generator i."""
    return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators])


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the CPU to a device, without waiting for the device to finish its work."""
    if device.type != "cuda":  # on other devices, a copy may be read before it is complete
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def add_noise(
    scheduler: Any, samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return samples with noise of one level, as the scheduler's own `add_noise` does.

    That method is a weighted sum, and sends its tables to the device of the samples, which waits.
    So it is asked for its two weights on the CPU. The bits are the same.

    Args:
        timesteps: one timestep, (1,).
    """
    ones = torch.tensor([1.0, 0.0], dtype=torch.float32, device="cpu")
    kept, added = scheduler.add_noise(ones, 1 - ones, timesteps)
    return kept * samples + added * noise
