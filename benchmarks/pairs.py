"""Runs that alternate, and the ratio of each pair, which is reliable even on a noisy machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def finish() -> None:
    """Wait until the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clear_device() -> None:
    """Free memory that nothing refers to any more, on the GPU, too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_turns(
    runs: dict[str, Callable[[], Any]],
    rounds: int,
    before: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
    """Return the seconds of every run: A B A B …, after one round that does not count.

    before: is called with a run's name, outside its time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        if turn == 1:
            gc.collect()
            # Otherwise a collection in one round would go through all that was imported.
            gc.freeze()
        for name, run in runs.items():
            before(name)
            finish()
            start = time.perf_counter()
            run()
            finish()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    gc.unfreeze()
    return seconds


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return the medians of both, the median ratio of the pairs, and its quartiles."""
    low, middle, high = spread([a / b for a, b in zip(ours, theirs, strict=True)])
    medians = {"ours": spread(ours)[1], "theirs": spread(theirs)[1]}
    return medians | {"ratio": middle, "quartiles": [low, high]}


def spread(values: list[float]) -> list[float]:
    """Return the first quartile, the median and the third quartile, to four significant digits."""
    return [float(f"{value:.4g}") for value in np.percentile(values, (25, 50, 75))]
