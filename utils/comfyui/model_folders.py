"""What is on disk: which model folders there are, and of what kind."""

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import folder_paths

BUNDLED = Path(__file__).parents[2] / "models"


@dataclass(frozen=True)
class Kind:
    """A kind of model folder: where the host keeps them, how to tell one, who takes it."""

    title: str
    host_folder: str
    marker: str  # the file that makes a folder a model's
    loader: str
    published: str


KINDS = {
    "prior": Kind(
        "a Kandinsky 2.2 prior",
        "diffusers",
        "model_index.json",
        "Load Prior",
        "kandinsky-community/kandinsky-2-2-prior",
    ),
    "decoder": Kind(
        "a Kandinsky 2.2 decoder",
        "diffusers",
        "model_index.json",
        "Load Decoder",
        "kandinsky-community/kandinsky-2-2-decoder",
    ),
    "depth": Kind(
        "a depth estimator",
        "depth_estimators",
        "config.json",
        "Load Depth Estimator",
        "depth-anything/Depth-Anything-V2-Small-hf",
    ),
}
MARKERS = {kind.marker for kind in KINDS.values()}
PRIOR_PARTS = ("prior", "text_encoder", "image_encoder", "tokenizer", "image_processor")


def read_json(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError or ValueError that name the file and what to do."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the model folder is not complete. Download it again."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object but {content!r:.40}. Download it again.")
    return content


def model_roots(kind: str) -> list[Path]:
    """The host's folders for a kind (with the user's extra_model_paths.yaml), then our own."""
    roots = folder_paths.get_folder_paths(KINDS[kind].host_folder)
    return [Path(root) for root in roots] + [BUNDLED]


def subfolders(folder: Path) -> list[Path]:
    """Sorted; none of what is not there, or may not be read."""
    _, names, _ = next(os.walk(folder), ("", [], []))  # which passes over what it cannot read
    return sorted(folder / name for name in names)


def all_folders(kind: str) -> dict[str, Path]:
    """Portable name → folder, for every model where this kind lives; an earlier root wins.

    Both `name` and `owner/name` are found; none is looked for within a model. The host asks ten
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


def kind_of(folder: Path) -> str | None:
    """The key of KINDS that a folder is, or None; told by its contents, not by its name."""
    try:
        if (folder / "model_index.json").is_file():
            parts = set(read_json(folder / "model_index.json"))
            if parts.issuperset(PRIOR_PARTS):
                return "prior"
            unet = read_json(folder / "unet" / "config.json") if "movq" in parts else {}
            return "decoder" if unet.get("encoder_hid_dim_type") == "image_proj" else None
        architectures = read_json(folder / "config.json").get("architectures") or [""]
        return "depth" if architectures[0].endswith("ForDepthEstimation") else None
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return None  # damaged; `find_model` says how


def list_models(kind: str) -> list[str]:
    return [name for name, folder in all_folders(kind).items() if kind_of(folder) == kind]


def component_configs(component: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, config) of a part, "unet" or "movq", of every decoder folder that has it."""
    folders = {name: all_folders("decoder")[name] / component for name in list_models("decoder")}
    found = []
    for name, folder in folders.items():
        try:
            found.append((name, read_json(folder / "config.json")))
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
    """Changes when any file of a model does, so that the host loads it again."""
    folder = find_model(name, kind)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def list_files(kind: str) -> dict[str, Path]:
    """Portable name → single file of a kind, which is the host's word for its folder.

    The user's own come first, then the bundled ones; of two with one name the first counts. Pickles
    are listed only to be refused by name.
    """
    found = {}
    for name in folder_paths.get_filename_list(kind):
        if path := folder_paths.get_full_path(kind, name):
            found[PurePath(name).as_posix()] = Path(path)
    for path in sorted((BUNDLED / kind).glob("*.safetensors")):
        found.setdefault(path.name, path)
    return found


def find_file(name: str, kind: str) -> Path:
    """Raises FileNotFoundError, or ValueError for a pickle; both say what to do."""
    files = list_files(kind)
    path = files.get(PurePath(str(name)).as_posix())
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(kind))
        raise FileNotFoundError(
            f"No file named {name!r} among {kind}. Found: {', '.join(list(files)[:5]) or 'none'}. "
            f"Put it into {folders}, then press R in the page."
        )
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise ValueError(
            f"{path} is a Python pickle, which can run code, and is not opened. Load it where you "
            "trust it with torch.load(file, weights_only=True), and write the tensors with "
            "safetensors.torch.save_file."
        )
    return path


def file_fingerprint(name: str, kind: str) -> tuple[int, int]:
    """Changes when the file does, so that the host loads it again."""
    file = find_file(name, kind).stat()
    return file.st_size, file.st_mtime_ns
