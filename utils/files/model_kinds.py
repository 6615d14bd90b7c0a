"""The kind of model that a folder holds: a prior, a decoder, a depth estimator."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architectures import DECODERS, ORGANISATION, PRIOR_FOLDER, variant_of
from .configs import read_json


@dataclass(frozen=True)
class Kind:
    """A kind of model folder: its folders in ComfyUI, the node that loads it, a published one."""

    title: str
    comfyui_folders: tuple[str, ...]
    loader: str
    published: str


KINDS = {
    "prior": Kind(
        "a Kandinsky 2.2 prior",
        ("diffusers",),
        "Load Prior",
        f"{ORGANISATION}/{PRIOR_FOLDER}",
    ),
    "prior_transformer": Kind(
        "the transformer of a prior",
        ("diffusers",),
        "Load Prior Transformer",
        f"{ORGANISATION}/{PRIOR_FOLDER}",
    ),
    "decoder": Kind(
        "a Kandinsky 2.2 decoder",
        ("diffusers",),
        "Load Decoder",
        f"{ORGANISATION}/{DECODERS['text_to_image'].folder}",
    ),
    "depth": Kind(
        "a depth estimator",
        ("depth_estimators", "diffusers"),
        "Load Depth Estimator",
        "depth-anything/Depth-Anything-V2-Small-hf",
    ),
}
# Each of these files marks a model's folder. There is no search within such a folder.
MARKERS = (
    "model_index.json",
    "config.json",
    *(os.path.join(part, "config.json") for part in ("movq", "prior", "prior_prior")),
)
PRIOR_PARTS = ("prior", "text_encoder", "tokenizer")
IMAGE_PARTS = ("image_encoder", "image_processor")  # a prior works without these
OURS = "Kandinsky"  # the names of this model's pipelines begin with it
COMBINED = "prior_"  # diffusers' combined pipelines put it before the names of the prior's parts


def prior_part(folder: Path, part: str) -> Path:
    """Return where a folder has a part of its prior. A combined pipeline gives it another name."""
    combined = folder / f"{COMBINED}{part}"
    return combined if combined.is_dir() else folder / part


def is_model(folder: Path) -> bool:
    return any(os.path.isfile(folder / marker) for marker in MARKERS)  # os.path.isfile never raises


def read_index(folder: Path) -> dict[str, Any]:
    index = folder / "model_index.json"
    return read_json(index) if os.path.isfile(index) else {}


def transformer_folder(folder: Path) -> Path | None:
    """Return where a folder has a prior's transformer: itself, as training saves it, or a part."""
    for place in (folder, prior_part(folder, "prior")):
        config = place / "config.json"
        if os.path.isfile(config) and read_json(config).get("_class_name") == "PriorTransformer":
            return place
    return None


def is_kind(folder: Path, kind: str) -> bool:
    """Return whether a folder is a model of a kind, by its contents, whatever its name."""
    return rank_of(folder, kind) is not None


def rank_of(folder: Path, kind: str) -> int | None:
    """Return the position of a model of a kind in a list, or None if it is of another kind.

    0 is what most users need.
    """

    def has(parts: Iterable[str]) -> bool:
        return all(part in index or os.path.isdir(folder / part) for part in parts)

    try:
        index = read_index(folder) if kind != "depth" else {}
        if kind == "prior":
            # Other pipelines that contain a prior have no image encoder either.
            ours = str(index.get("_class_name", OURS)).startswith(OURS)
            plain = has(PRIOR_PARTS) and (ours or has(IMAGE_PARTS))
            return 0 if plain or has(COMBINED + part for part in PRIOR_PARTS) else None
        if kind == "prior_transformer":
            return 0 if transformer_folder(folder) else None
        if kind == "decoder":
            if not has(("unet", "movq")):
                return None
            unet = read_json(folder / "unet" / "config.json")
            known = unet.get("encoder_hid_dim_type") == "image_proj"
            return list(DECODERS).index(variant_of(unet)) if known else None
        if not os.path.isfile(folder / "config.json"):
            return None
        names = read_json(folder / "config.json").get("architectures") or [""]
        return 0 if names[0].endswith("ForDepthEstimation") else None
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return None  # damaged; `model_folders.find_model` reports the error


def kinds_of(folder: Path) -> set[str]:
    """Return the keys of KINDS that a folder is. A combined pipeline is two of them."""
    return {kind for kind in KINDS if is_kind(folder, kind)}


def contents_of(folder: Path) -> str:
    """Return a description of a folder that is of no kind."""
    for name in ("model_index.json", "config.json"):
        if os.path.isfile(folder / name):
            try:
                config = read_json(folder / name)
            except (OSError, ValueError) as error:
                return f"a damaged model ({error})"
            names = config.get("_class_name") or config.get("architectures") or "unknown model"
            return f"a {names[0] if isinstance(names, list) else names}"
    return "a folder without model_index.json and config.json"
