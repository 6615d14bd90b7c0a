"""Single model files, by the names that the loaders list."""

import re
from pathlib import Path, PurePath
from typing import Any

import folder_paths

from ..files.peft_configs import sidecars
from .model_folders import BUNDLED

NAMED_FOR_US = re.compile(r"kandinsky.{0,2}2.?2|k22|movq", re.IGNORECASE)


def list_files(kind: str) -> dict[str, Path]:
    """Return portable name → file, for every single file in the folder that ComfyUI calls `kind`.

    The user's own files come before the bundled ones, and first of all those named for this model.
    If two have one name, the first counts. Pickles are listed only to be refused by name.
    """
    found = {}
    # Also names of other models, whose files are not opened here.
    names = folder_paths.get_filename_list(kind)
    for name in sorted(names, key=lambda name: not NAMED_FOR_US.search(name)):
        if path := folder_paths.get_full_path(kind, name):
            found[PurePath(name).as_posix()] = Path(path)
    for path in sorted((BUNDLED / kind).glob("*.safetensors")):
        found.setdefault(path.name, path)
    return found


def find_file(name: str, kind: str) -> Path:
    """Return the path of a file.

    Raises:
        FileNotFoundError: there is none of that name. The message says what to do.
        ValueError: it is a pickle. The message says what to do.
    """
    files = list_files(kind)
    path = files.get(PurePath(str(name)).as_posix())
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(kind))
        raise FileNotFoundError(
            f"No file named {name!r} among {kind}. Found: {', '.join(list(files)[:5]) or 'none'}. "
            f"Put it into {folders}, then press R in ComfyUI."
        )
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise ValueError(
            f"{path} is a Python pickle, which can run code, and is not opened. Load it where you "
            "trust it with torch.load(file, weights_only=True), and write the tensors with "
            "safetensors.torch.save_file."
        )
    return path


def fingerprint(name: str, kind: str) -> tuple[int, int]:
    """Return a value that changes when the file does, so that ComfyUI loads it again."""
    file = find_file(name, kind).stat()
    return file.st_size, file.st_mtime_ns


def fingerprint_lora(name: str) -> Any:
    """Return a value that changes when the file or peft's settings beside it change."""
    path = find_file(name, "loras")
    stats = {file.name: file.stat() for file in (path, *sidecars(path))}
    return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()]
