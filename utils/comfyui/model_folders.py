"""Model folders on this computer, by the names that the loaders list."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
from huggingface_hub import constants

from ..files.configs import read_config, read_json
from ..files.model_kinds import KINDS, contents_of, is_kind, is_model, kinds_of, rank_of
from ..files.zero_embeds import FILE as ZERO_EMBEDS

BUNDLED = Path(__file__).parents[2] / "models"
DEEPEST = 3  # levels below a root, as far down as a cache of the hub has its snapshots
NEVER_MODELS = (".", "datasets--", "spaces--")  # hidden; the hub's other kinds of repositories
REPOSITORY = "models--"  # before the name of a repository's folder in a cache of the hub


def model_roots(kind: str) -> list[Path]:
    """Where a kind is looked for: ComfyUI's folders, with those of extra_model_paths.yaml; the
    hub's cache, which is only read; the bundled models."""
    names = KINDS[kind].comfyui_folders
    known = folder_paths.folder_names_and_paths
    roots = [
        root for name in names if name in known for root in folder_paths.get_folder_paths(name)
    ]
    # A root that is there twice, such as a cache among ComfyUI's folders, is walked once.
    return list(dict.fromkeys([*map(Path, roots), Path(constants.HF_HUB_CACHE), BUNDLED]))


def may_be_written(folder: Path) -> bool:
    """Whether small files may be kept in a model's folder: neither in a cache of the hub, wherever
    that lies, nor among the bundled models."""
    real = folder.resolve()
    in_cache = any(part.startswith(REPOSITORY) for part in real.parts)
    return not in_cache and not real.is_relative_to(BUNDLED.resolve())


def subfolders(folder: Path) -> list[Path]:
    """Sorted, without those that hold no models; none of what is not there, or may not be read."""
    try:
        _, names, _ = next(os.walk(folder), ("", [], []))  # which passes over what it cannot read
    except ValueError:  # a NUL in HF_HOME
        return []
    return sorted(folder / name for name in names if not name.startswith(NEVER_MODELS))


def snapshots(repository: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of each snapshot that a cache of the hub has of a repository: `owner/name` is
    the one of its main branch, or else the first; others have their commit after the name."""
    name = repository.name.removeprefix(REPOSITORY).replace("--", "/")
    try:
        main = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        main = ""
    found = subfolders(repository / "snapshots")
    for i, folder in enumerate(sorted(found, key=lambda folder: folder.name != main)):
        yield f"{name}@{folder.name[:8]}" if i else name, folder


def walk(root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """(portable name, folder) of every model below `folder`; none is looked for within a model."""
    for child in subfolders(folder):
        if child.name.startswith(REPOSITORY):
            yield from snapshots(child)
        elif is_model(child):
            yield child.relative_to(root).as_posix(), child
        elif len(child.parts) - len(root.parts) < DEEPEST:
            yield from walk(root, child)


def all_folders(kind: str) -> dict[str, Path]:
    """Portable name → folder, for every model where this kind lives; an earlier root wins.

    A model that lies in a root itself has the root's name. ComfyUI asks ten times for each workflow
    that is queued, and models may lie across a network.
    """
    found: dict[str, Path] = {}
    for root in model_roots(kind):
        for name, folder in walk(root, root):
            found.setdefault(name, folder)
        if is_model(root):
            found.setdefault(root.name, root)
    return found


def models_of(kind: str) -> dict[str, Path]:
    """Portable name → folder, for every model of a kind."""
    return {name: folder for name, folder in all_folders(kind).items() if is_kind(folder, kind)}


def list_models(kind: str) -> list[str]:
    """What a loader offers; the first is what a new node has: decoders for text to image first.

    Among equals the user's own come first, then the hub's cache, then the bundled ones.
    """
    return in_order(all_folders(kind), kind)


def in_order(folders: dict[str, Path], kind: str) -> list[str]:
    """The names of those that are of a kind."""
    ranks = {name: rank_of(folder, kind) for name, folder in folders.items()}
    known = {name: rank for name, rank in ranks.items() if rank is not None}
    return sorted(known, key=lambda name: known[name])


def decoder_parts(component: str) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name of a decoder folder → (the folder, the config of its part "unet" or "movq")."""
    found = {}
    for name, folder in models_of("decoder").items():
        try:
            found[name] = folder, read_config(folder / component / "config.json")
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
    folders = all_folders(kind)
    folder = folders.get(str(name))
    if folder is None:
        raise FileNotFoundError(describe_missing(name, kind, folders))
    kinds = kinds_of(folder)
    if kind in kinds:
        return folder
    if kinds:
        other = KINDS[min(kinds)]
        raise ValueError(f"{name!r} is {other.title}: use {other.loader} for it.")
    if kind != "depth":
        index = read_json(folder / "model_index.json")
        for part in ("prior", "text_encoder", "image_encoder", "unet", "movq"):
            if part in index:
                read_json(folder / part / "config.json")  # names what is missing or damaged
    raise ValueError(
        f"{name!r} is {contents_of(folder)}, not {KINDS[kind].title}. "
        f"Choose one of: {', '.join(list_models(kind)) or 'none'}."
    )


def describe_missing(name: str, kind: str, folders: dict[str, Path]) -> str:
    """Why a name is not found, and what lies there instead."""
    wanted = KINDS[kind]
    kinds = {other: kinds_of(folder) for other, folder in folders.items()}
    known = in_order(folders, kind)
    choose = f"In {wanted.loader}, choose {known[0]}; or let" if known else "Let"
    odd = [f"{n} ({contents_of(folder)})" for n, folder in folders.items() if not kinds[n]]
    passed_over = f" Not usable: {'; '.join(odd[:5])}." if odd else ""
    roots = ", ".join(str(root) for root in model_roots(kind))
    return (
        f"{choose} Get Models (Kandinsky 2.2) fetch what is missing. No model named {name!r} for "
        f"{wanted.loader}. Found: {', '.join(known) or 'none'}.{passed_over} Looked in: {roots}. "
        f"Put the folder of {wanted.published} (or another) into the first of these, then "
        "press R in ComfyUI."
    )


def fingerprint(name: str, kind: str) -> list[tuple[str, int, int]]:
    """Changes when any file of a model does, so that ComfyUI loads it again. What this pack keeps
    beside an image encoder is none of them."""
    folder = find_model(name, kind)
    places = [folder, *(Path(entry) for entry in os.scandir(folder) if entry.is_dir())]
    files = [file for place in places for file in place.glob("*") if file.is_file()]
    stats = {
        file.relative_to(folder).as_posix(): file.stat()
        for file in sorted(files)
        if file.name != ZERO_EMBEDS
    }
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
