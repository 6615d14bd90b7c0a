"""Which kind of model a folder holds: a prior, a decoder or a depth estimator."""

from dataclasses import dataclass
from pathlib import Path

from .architectures import DECODERS, ORGANISATION, PRIOR_FOLDER
from .configs import read_json


@dataclass(frozen=True)
class Kind:
    """A kind of model folder: where ComfyUI keeps it, how to recognise it, which node loads it."""

    title: str
    comfyui_folder: str
    marker: str  # the file that makes a folder a model's
    loader: str
    published: str


KINDS = {
    "prior": Kind(
        "a Kandinsky 2.2 prior",
        "diffusers",
        "model_index.json",
        "Load Prior",
        f"{ORGANISATION}/{PRIOR_FOLDER}",
    ),
    "decoder": Kind(
        "a Kandinsky 2.2 decoder",
        "diffusers",
        "model_index.json",
        "Load Decoder",
        f"{ORGANISATION}/{DECODERS['text_to_image'].folder}",
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


def kind_of(folder: Path) -> str | None:
    """The key of KINDS that a folder is, or None; recognised by its contents, not by its name."""
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
        return None  # damaged; `model_folders.find_model` says how
