"""Names in Load Prior Transformer → paths: single files, and folders.

Nothing here imports diffusers, so that ComfyUI can list the names when it starts.
"""

from pathlib import Path
from typing import Any

from ..files.model_kinds import transformer_folder
from ..files.prior_files import is_prior_file
from . import model_files, model_folders

KIND = "prior_transformer"
FILES = "diffusion_models"


def transformer_files() -> dict[str, Path]:
    """Return portable name → single file, for all that hold a prior's transformer."""
    files = model_files.list_files(FILES).items()
    return {name: file for name, file in files if is_prior_file(file)}


def list_transformers() -> list[str]:
    return [*transformer_files(), *model_folders.list_models(KIND)]


def find_transformer(name: str) -> Path:
    """Return a single file, or the folder with config.json and weights.

    Raises:
        FileNotFoundError, ValueError: there is none of that name, or it is something else.
    """
    if str(name) in model_files.list_files(FILES):
        return model_files.find_file(name, FILES)
    folder = model_folders.find_model(name, KIND)
    return transformer_folder(folder) or folder


def fingerprint(name: str) -> Any:
    """Return a value that changes when the file, or a file of the folder, does."""
    if str(name) in model_files.list_files(FILES):
        return model_files.fingerprint(name, FILES)
    return model_folders.fingerprint(name, KIND)
