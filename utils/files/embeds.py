"""Image embeddings in a safetensors file."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..kandinsky.image_embeds import ImageEmbeds

FILE_FORMAT = "kandinsky22 image_embeds 1"
DTYPES = ("F64", "F32", "F16", "BF16")  # the dtypes that embeddings may have in a file
# The marks that other programs write into the metadata.
FRAMEWORKS = (None, "pt", "np", "tf", "flax", "mlx")
MOST_NUMBERS = 2**28  # in a file: a gigabyte


def save_embeds(embeds: ImageEmbeds, path: Path) -> None:
    """Save embeddings. Raise OSError if the file cannot be written."""
    tensors = {"image_embeds": embeds.tensor.contiguous()}
    try:
        save_file(tensors, path, metadata={"format": FILE_FORMAT})
    except SafetensorError as error:  # an error of the disk, in the library's words
        raise OSError(f"{path} cannot be written ({error})") from error


def load_embeds(path: Path) -> ImageEmbeds:
    """Load the embeddings of a file of `save_embeds`, or of any file with one (B, D) tensor.

    Raises:
        ValueError: the file is damaged or holds something else. The message names it.
        OSError: it cannot be read. The message names it.
    """
    try:
        tensor = read_tensor(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is damaged or not a safetensors file ({error}). Save it again."
        ) from error
    except (OSError, RuntimeError) as error:  # torch has no memory for so large a file
        raise OSError(
            f"{path.name} cannot be read ({error}). Let ComfyUI read it, or choose another file."
        ) from error
    try:
        return ImageEmbeds(tensor)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be used: {error}") from error


def read_tensor(path: Path) -> torch.Tensor:
    """Return the embeddings in a file, whose header is checked before anything else is read."""
    with safe_open(path, framework="pt") as file:
        mark = (file.metadata() or {}).get("format")
        names = ["image_embeds"] if mark == FILE_FORMAT else list(file.keys())
        if len(names) != 1 or mark not in (FILE_FORMAT, *FRAMEWORKS):
            raise ValueError(
                f"{path.name} does not hold image embeddings: it has {len(names)} tensors, and was "
                "not written by Save Embeds (Kandinsky 2.2). Choose another file: one tensor, of "
                "shape (batch, width), is read."
            )
        stored = file.get_slice(names[0])
        dtype, shape = stored.get_dtype(), stored.get_shape()
        if dtype not in DTYPES or math.prod(shape) > MOST_NUMBERS:
            raise ValueError(
                f"{path.name} does not hold image embeddings: its numbers are {dtype}, of shape "
                f"{shape!s:.80}. Save Embeds writes F32, (batch, width). Choose another file."
            )
        return file.get_tensor(names[0]).clone()  # a copy, because the file may change later
