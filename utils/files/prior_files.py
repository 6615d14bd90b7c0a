"""Find single files that hold the transformer of a prior, by the names of their tensors."""

import os
from pathlib import Path

from .headers import tensor_names

KNOWN: dict[tuple[Path, int, int], bool] = {}  # what a file is, by its size and its time
OF_A_PRIOR = {"positional_embedding", "proj_in.weight", "proj_to_clip_embeddings.weight"}


def names_a_prior(file: Path) -> bool:
    """Return whether the header of a file names a prior's tensors."""
    try:
        return tensor_names(file) >= OF_A_PRIOR
    except (OSError, ValueError):
        return False  # damaged; the node that loads it reports the error


def is_prior_file(file: Path) -> bool:
    """Return the same, but read each header only once.

    ComfyUI asks ten times for each queued workflow.
    """
    try:
        stat = os.stat(file)
    except OSError:
        return False
    if file.suffix.lower() not in (".safetensors", ".sft") or not os.path.isfile(file):
        return False
    key = file, stat.st_size, stat.st_mtime_ns
    if key not in KNOWN:
        KNOWN[key] = names_a_prior(file)
    return KNOWN[key]
