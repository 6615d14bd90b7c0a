"""Single files that hold the transformer of a prior, told by the names of their tensors."""

import os
from functools import lru_cache
from pathlib import Path

from .headers import open_tensors

OF_A_PRIOR = {"positional_embedding", "proj_in.weight", "proj_to_clip_embeddings.weight"}


@lru_cache(maxsize=4096)
def names_a_prior(file: Path, size: int, written: int) -> bool:
    """Whether the header of a file, as large and as old as this, names a prior's tensors."""
    try:
        with open_tensors(file) as tensors:
            return set(tensors.keys()) >= OF_A_PRIOR
    except (OSError, ValueError):
        return False  # damaged; the node that takes it says how


def is_prior_file(file: Path) -> bool:
    """Each header is read once: ComfyUI asks ten times for each workflow that is queued."""
    try:
        stat = os.stat(file)
    except OSError:
        return False
    is_safe = file.suffix.lower() in (".safetensors", ".sft") and os.path.isfile(file)
    return is_safe and names_a_prior(file, stat.st_size, stat.st_mtime_ns)
