"""The names of the published models' files, and checks of their downloads."""

import pickle
from pathlib import Path

import torch
from kandinsky22.utils.comfyui import model_folders
from kandinsky22.utils.download.hub import PIECE
from kandinsky22.utils.download.repositories import REPOSITORIES, Repository
from safetensors.torch import save

DECODER = REPOSITORIES["kandinsky-2-2-decoder"]
UNET = "unet/diffusion_pytorch_model.safetensors"
# These are in the hub's listing, and are not needed.
UNWANTED = {
    "README.md": b"# card",
    "cat.png": b"picture",
    "whole.safetensors": b"a single file of everything",
    "unet/diffusion_pytorch_model.bin": pickle.dumps(print),
    "unet/diffusion_pytorch_model.fp16.safetensors": b"the same once more",
}
# A file that no loader reads, in a few pieces that arrive one by one.
TINY = Repository("someone/tiny", "c0ffee", 0.0, "Load Decoder")
TINY_FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"sample_size": 8}',
    UNET: save({"weight": torch.arange(5 * PIECE // 4, dtype=torch.float32)}),
}


def listed() -> set[str]:
    """Return the models that the loaders list, without the bundled ones."""
    names = {name for kind in model_folders.KINDS for name in model_folders.list_models(kind)}
    return {name for name in names if not (model_folders.BUNDLED / name).exists()}


def files_in(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
