"""Keep the zero-image embedding of a prior in a small file beside the weights of its encoder.

Text-to-image without a negative prompt reads nothing else of the image encoder, the largest part of
a prior.
"""

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from ..kandinsky.image_embeds import ImageEmbeds
from .configs import read_json
from .headers import weight_files

FILE = "zero_image_embeds.json"  # in the image encoder's folder
log = logging.getLogger("kandinsky22")


def stamps(folder: Path) -> list[list[Any]]:
    """Return the name, size and time of the encoder's config and weights."""
    files = [folder / "config.json", *weight_files(folder)]
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def read_kept(folder: Path) -> dict[str, Any]:
    """Return how computed → embedding, for the encoder in the folder. It may be empty."""
    if not os.path.isfile(folder / FILE):
        return {}
    try:
        kept = read_json(folder / FILE)
    except (OSError, ValueError) as error:
        log.warning("The zero-image embedding is computed again: %s", error)
        return {}
    embeds = kept.get("embeds")
    return embeds if kept.get("made_of") == stamps(folder) and isinstance(embeds, dict) else {}


def read_zero_embeds(folder: Path, how: str, width: int) -> ImageEmbeds | None:
    """Return the embedding (1, width) if it was computed in exactly the same way, or None.

    Args:
        how: what its bits depend on beside the encoder: the dtypes, the device.
    """
    numbers = read_kept(folder).get(how)
    try:
        embeds = ImageEmbeds(torch.tensor([numbers], dtype=torch.float32))
    except (ValueError, TypeError, RuntimeError):  # none is kept, or it is damaged
        return None
    return embeds if embeds.width == width else None


def keep_zero_embeds(folder: Path, how: str, embeds: ImageEmbeds) -> None:
    """Write the embedding beside the encoder's weights, if the folder can be written to."""
    unfinished = folder / f"{FILE}.{os.getpid()}"
    try:
        kept = {**read_kept(folder), how: embeds.tensor[0].tolist()}
        content = json.dumps({"made_of": stamps(folder), "embeds": kept})
        unfinished.write_text(content + "\n", encoding="utf-8")
        unfinished.replace(folder / FILE)
    except OSError as error:
        log.info("The zero-image embedding is not kept: %s", error)
        with contextlib.suppress(OSError):
            unfinished.unlink()
