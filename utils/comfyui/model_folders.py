"""Model folders on this computer, by the names that the loaders list."""

import os
from pathlib import Path
from typing import Any

import folder_paths

from ..files.configs import read_json
from ..files.model_kinds import KINDS, MARKERS, kind_of

BUNDLED = Path(__file__).parents[2] / "models"


def model_roots(kind: str) -> list[Path]:
    """ComfyUI's folders for a kind, with those of extra_model_paths.yaml, then the bundled one."""
    roots = folder_paths.get_folder_paths(KINDS[kind].comfyui_folder)
    return [Path(root) for root in roots] + [BUNDLED]


def subfolders(folder: Path) -> list[Path]:
    """Sorted; none of what is not there, or may not be read."""
    _, names, _ = next(os.walk(folder), ("", [], []))  # which passes over what it cannot read
    return sorted(folder / name for name in names)


def all_folders(kind: str) -> dict[str, Path]:
    """Portable name → folder, for every model where this kind lives; an earlier root wins.

    Both `name` and `owner/name` are found; none is looked for within a model. ComfyUI asks ten
    times for each workflow that is queued, and models may lie across a network.
    """

    def has(folder: Path, marker: str) -> bool:
        return os.path.isfile(folder / marker)  # pathlib's may raise PermissionError

    found: dict[str, Path] = {}
    for root in model_roots(kind):
        for folder in subfolders(root):
            is_model = any(has(folder, marker) for marker in MARKERS)
            for model in [folder] if is_model else subfolders(folder):
                if has(model, KINDS[kind].marker):
                    found.setdefault(model.relative_to(root).as_posix(), model)
    return found


def models_of(kind: str) -> dict[str, Path]:
    """Portable name → folder, for every model of a kind."""
    return {name: folder for name, folder in all_folders(kind).items() if kind_of(folder) == kind}


def list_models(kind: str) -> list[str]:
    return list(models_of(kind))


def decoder_parts(component: str) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name of a decoder folder → (the folder, the config of its part "unet" or "movq")."""
    found = {}
    for name, folder in models_of("decoder").items():
        try:
            found[name] = folder, read_json(folder / component / "config.json")
        except (OSError, ValueError):
            continue  # damaged; the folder's own loader says how
    return found


def find_model(name: str, kind: str) -> Path:
    """The folder of a model by its portable name.

    Raises:
        FileNotFoundError: there is none of that name, or it is not complete; says where it
            looked and what to do.
        ValueError: it is a model of another kind; says which node it belongs to.
    """
    folder = all_folders(kind).get(str(name))
    wanted = KINDS[kind]
    found = folder and kind_of(folder)
    if folder is not None and found == kind:
        return folder
    known = ", ".join(list_models(kind)) or "none"
    if folder is None:
        roots = ", ".join(str(root) for root in model_roots(kind))
        raise FileNotFoundError(
            f"No model named {name!r} for {wanted.loader}. Found: {known}. Looked in: {roots}. "
            f"Put the folder of {wanted.published} (or another) into the first of these, then "
            "press R in the page."
        )
    if found is not None:
        raise ValueError(f"{name!r} is {KINDS[found].title}: use {KINDS[found].loader} for it.")
    index = read_json(folder / wanted.marker)
    for part in ("prior", "text_encoder", "image_encoder", "unet", "movq"):
        if part in index:
            read_json(folder / part / "config.json")  # names the file that is missing or damaged
    raise ValueError(
        f"{name!r} is a {index.get('_class_name') or 'model of another kind'}, not "
        f"{wanted.title}. Choose one of: {known}."
    )


def fingerprint(name: str, kind: str) -> list[tuple[str, int, int]]:
    """Changes when any file of a model does, so that ComfyUI loads it again."""
    folder = find_model(name, kind)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
