"""Image embeddings in a safetensors file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..kandinsky.image_embeds import ImageEmbeds

FILE_FORMAT = "kandinsky22 image_embeds 1"


def save_embeds(embeds: ImageEmbeds, path: Path) -> None:
    """Raises OSError if the file cannot be written."""
    tensors = {"image_embeds": embeds.tensor.contiguous()}
    try:
        save_file(tensors, path, metadata={"format": FILE_FORMAT})
    except SafetensorError as error:  # what the disk says, in the library's words
        raise OSError(f"{path} cannot be written ({error})") from error


def load_embeds(path: Path) -> ImageEmbeds:
    """Raises ValueError if the file is damaged or was not written by `save_embeds`."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != FILE_FORMAT:
                raise ValueError(
                    f"{path.name} does not hold image embeddings: it was not written by Save "
                    "Embeds (Kandinsky 2.2). Choose another file."
                )
            return ImageEmbeds(file.get_tensor("image_embeds"))
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is damaged or not a safetensors file ({error}). Save it again."
        ) from error
