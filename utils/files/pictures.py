"""The bundled pictures and training sets, for graphs that run on any computer."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

# In web/, because ComfyUI's web interface shows them before they have run.
PICTURES = Path(__file__).resolve().parents[2] / "web" / "pictures"


def picture_names() -> list[str]:
    """Return the file names, sorted."""
    return sorted(path.name for path in PICTURES.iterdir() if path.suffix == ".png")


def load_picture(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Load one of the pictures, as ComfyUI's Load Image gives it.

    Returns:
        (1, H, W, 3) in [0, 1], and the mask (1, H, W), which is 1 where the picture is transparent.

    Raises:
        ValueError: there is no picture of this name.
    """
    if name not in picture_names():
        raise ValueError(
            f"Choose one of the bundled pictures ({', '.join(picture_names())}), not {name!r:.80}. "
            "For a picture of your own use Load Image."
        )
    return read_picture(PICTURES / name)


def read_picture(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the picture (1, H, W, 3) in [0, 1] and its mask (1, H, W)."""
    pixels = np.asarray(Image.open(path).convert("RGBA"), dtype=np.float32) / 255
    picture = torch.from_numpy(pixels)[None]
    return picture[..., :3].contiguous(), 1 - picture[..., 3]


def dataset_names() -> list[str]:
    """Return the names of the folders of pictures with captions, sorted."""
    return sorted(path.name for path in PICTURES.iterdir() if path.is_dir())


def load_dataset(name: str) -> tuple[list[torch.Tensor], list[str]]:
    """Load one of the training sets, as ComfyUI's Load Image-Text (from Folder) gives a folder.

    Returns:
        N pictures (1, H, W, 3) in [0, 1], and their N captions.

    Raises:
        ValueError: there is no training set of this name.
    """
    if name not in dataset_names():
        raise ValueError(
            f"Choose one of the bundled datasets ({', '.join(dataset_names())}), not {name!r:.80}. "
            "For pictures of your own use Load Image-Text (from Folder)."
        )
    files = sorted((PICTURES / name).glob("*.png"))
    pictures = [read_picture(file)[0] for file in files]
    return pictures, [file.with_suffix(".txt").read_text("utf-8").strip() for file in files]
