"""Pair up batches. A batch of 1 serves every item of another batch, and equal batches pair up."""

import torch


def common_batch(**batches: int) -> int:
    """Return the batch size of all named values. A batch of 1 fits any other.

    Raises:
        ValueError: two batches differ and neither is 1. The message names both and their sizes.
    """
    empty = [name for name, size in batches.items() if size == 0]
    if empty:
        raise ValueError(f"{empty[0]} is an empty batch. At least one item is needed.")
    real = {name: size for name, size in batches.items() if size != 1}
    if len(set(real.values())) > 1:
        sizes = ", ".join(f"{name} has {size}" for name, size in real.items())
        raise ValueError(
            f"Batches do not pair up: {sizes}. Give them equal batches, or a batch of 1, "
            "which is used for every item."
        )
    return next(iter(real.values()), 1)


def broadcast(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat a batch of 1 to `batch`. A tensor that has that batch size is returned unchanged."""
    if tensor.shape[0] == batch:
        return tensor
    return tensor.expand(batch, *tensor.shape[1:]).contiguous()
