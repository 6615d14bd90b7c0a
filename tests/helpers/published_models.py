"""Names what a hub has of the published models, and says what has come of them."""

import pickle
from pathlib import Path

from kandinsky22.utils.comfyui import model_folders
from kandinsky22.utils.download.repositories import REPOSITORIES

DECODER = REPOSITORIES["kandinsky-2-2-decoder"]
UNET = "unet/diffusion_pytorch_model.safetensors"
# In the hub's listing, and of no use here.
UNWANTED = {
    "README.md": b"# card",
    "cat.png": b"picture",
    "whole.safetensors": b"a single file of everything",
    "unet/diffusion_pytorch_model.bin": pickle.dumps(print),
    "unet/diffusion_pytorch_model.fp16.safetensors": b"the same once more",
}


def listed() -> set[str]:
    """The models that the loaders offer, without those in the box."""
    names = {name for kind in model_folders.KINDS for name in model_folders.list_models(kind)}
    return {name for name in names if not (model_folders.BUNDLED / name).exists()}


def files_in(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
