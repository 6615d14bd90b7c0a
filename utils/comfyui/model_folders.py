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
DEEPEST = 3  # levels below a root; a cache of the hub has its snapshots there
# Hidden folders, and the hub's other kinds of repositories.
NEVER_MODELS = (".", "datasets--", "spaces--")
REPOSITORY = "models--"  # before the name of a repository's folder in a cache of the hub


def model_roots(kind: str) -> list[Path]:
    """Return the folders in which a kind is looked for.

    These are ComfyUI's folders, with those of extra_model_paths.yaml, the hub's cache, which is
    only read, and the bundled models.
    """
    names = KINDS[kind].comfyui_folders
    known = folder_paths.folder_names_and_paths
    roots = [
        root for name in names if name in known for root in folder_paths.get_folder_paths(name)
    ]
    # A root that is there twice, such as a cache among ComfyUI's folders, is searched once.
    return list(dict.fromkeys([*map(Path, roots), Path(constants.HF_HUB_CACHE), BUNDLED]))


def may_be_written(folder: Path) -> bool:
    """Return whether small files may be kept in a model's folder.

    They may be kept neither in a cache of the hub, wherever that is, nor among the bundled models.
    """
    real = folder.resolve()
    in_cache = any(part.startswith(REPOSITORY) for part in real.parts)
    return not in_cache and not real.is_relative_to(BUNDLED.resolve())


def subfolders(folder: Path) -> list[Path]:
    """Return the subfolders, sorted, without those that hold no models.

    A missing or unreadable folder has none.
    """
    try:
        _, names, _ = next(os.walk(folder), ("", [], []))  # os.walk skips what it cannot read
    except ValueError:  # a NUL in HF_HOME
        return []
    return sorted(folder / name for name in names if not name.startswith(NEVER_MODELS))


def snapshots(repository: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, folder) of each snapshot that a cache of the hub has of a repository.

    `owner/name` is the snapshot of its main branch, or else the first one. The names of the others
    end with their commit.
    """
    name = repository.name.removeprefix(REPOSITORY).replace("--", "/")
    try:
        main = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        main = ""
    found = subfolders(repository / "snapshots")
    for i, folder in enumerate(sorted(found, key=lambda folder: folder.name != main)):
        yield f"{name}@{folder.name[:8]}" if i else name, folder


def walk(root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (portable name, folder) of every model below `folder`.

    There is no search within a model.
    """
    for child in subfolders(folder):
        if child.name.startswith(REPOSITORY):
            yield from snapshots(child)
        elif is_model(child):
            yield child.relative_to(root).as_posix(), child
        elif len(child.parts) - len(root.parts) < DEEPEST:
            yield from walk(root, child)


def all_folders(kind: str) -> dict[str, Path]:
    """Return portable name → folder, for every model in the folders of this kind.

    If two have one name, that of the earlier root counts. A model that lies in a root itself has
    the root's name. The search must be fast: ComfyUI asks ten times for each queued workflow, and
    models may lie across a network.
    """
    found: dict[str, Path] = {}
    for root in model_roots(kind):
        for name, folder in walk(root, root):
            found.setdefault(name, folder)
        if is_model(root):
            found.setdefault(root.name, root)
    return found


def models_of(kind: str) -> dict[str, Path]:
    """Return portable name → folder, for every model of a kind."""
    return {name: folder for name, folder in all_folders(kind).items() if is_kind(folder, kind)}


def list_models(kind: str) -> list[str]:
    """Return the names that a loader lists. A new node has the first one.

    Decoders for text-to-image come first. Among equals, the user's own models come first, then the
    hub's cache, then the bundled models.
    """
    return in_order(all_folders(kind), kind)


def in_order(folders: dict[str, Path], kind: str) -> list[str]:
    """Return the names of those that are of a kind, in this order."""
    ranks = {name: rank_of(folder, kind) for name, folder in folders.items()}
    known = {name: rank for name, rank in ranks.items() if rank is not None}
    return sorted(known, key=lambda name: known[name])


def decoder_parts(component: str) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return name of a decoder folder → (the folder, the config of its part "unet" or "movq")."""
    found = {}
    for name, folder in models_of("decoder").items():
        try:
            found[name] = folder, read_config(folder / component / "config.json")
        except (OSError, ValueError):
            continue  # damaged; the folder's own loader reports the error
    return found


def find_model(name: str, kind: str) -> Path:
    """Return the folder of a model by its portable name.

    Raises:
        FileNotFoundError: there is none of that name, or it is not complete. The message says which
            folders were searched and what to do.
        ValueError: it is a model of another kind. The message says which node loads it.
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
                # Raises an error that names what is missing or damaged.
                read_json(folder / part / "config.json")
    raise ValueError(
        f"{name!r} is {contents_of(folder)}, not {KINDS[kind].title}. "
        f"Choose one of: {', '.join(list_models(kind)) or 'none'}."
    )


def describe_missing(name: str, kind: str, folders: dict[str, Path]) -> str:
    """Return why a name is not found, and which models are there instead."""
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
    """Return a value that changes when any file of a model does, so that ComfyUI loads it again.

    The file that this pack keeps beside an image encoder does not count.
    """
    folder = find_model(name, kind)
    places = [folder, *(Path(entry) for entry in os.scandir(folder) if entry.is_dir())]
    files = [file for place in places for file in place.glob("*") if file.is_file()]
    stats = {
        file.relative_to(folder).as_posix(): file.stat()
        for file in sorted(files)
        if file.name != ZERO_EMBEDS
    }
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
