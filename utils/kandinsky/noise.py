"""Noise: each item of a batch has a CPU generator of its own.

So its noise is the same on every device, and the item can be made again alone.
"""

import torch


def item_generators(seed: int, indices: list[int]) -> list[torch.Generator]:
    """One CPU generator for each index, seeded (seed + index) modulo 2**64."""
    return [torch.Generator("cpu").manual_seed((seed + index) % 2**64) for index in indices]


def draw_noise(shape: tuple[int, ...], generators: list[torch.Generator]) -> torch.Tensor:
    """Float32 noise of `shape` on the CPU; item i is one draw from generator i."""
    return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators])


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the CPU → the same on a device, without waiting for what the device is doing."""
    if device.type != "cuda":  # elsewhere a copy may be read before it is there
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
