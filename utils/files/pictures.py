"""The pictures that come with the pack, for graphs that must run on any computer."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

# In web/, from where ComfyUI's web page shows them before they have run.
PICTURES = Path(__file__).resolve().parents[2] / "web" / "pictures"


def picture_names() -> list[str]:
    """The file names, sorted."""
    return sorted(path.name for path in PICTURES.iterdir() if path.suffix == ".png")


def load_picture(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One of the pictures, as ComfyUI's Load Image gives it.

    Returns:
        (1, H, W, 3) in [0, 1], and the mask (1, H, W): 1 where the picture is transparent.

    Raises:
        ValueError: there is no picture of this name.
    """
    if name not in picture_names():
        raise ValueError(
            f"Choose one of the bundled pictures ({', '.join(picture_names())}), not {name!r:.80}. "
            "For a picture of your own use Load Image."
        )
    pixels = np.asarray(Image.open(PICTURES / name).convert("RGBA"), dtype=np.float32) / 255
    picture = torch.from_numpy(pixels)[None]
    return picture[..., :3].contiguous(), 1 - picture[..., 3]
