"""What is on disk: finding diffusers folders, and building modules from their weights."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import folder_paths
import torch
from safetensors import SafetensorError, safe_open

from .residency import swap_ops

BUNDLED = Path(__file__).parent.parent / "models"


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
PRIOR_PARTS = ("prior", "text_encoder", "image_encoder", "tokenizer", "image_processor")
# Names that older files use → today's; and buffers that older files stored needlessly.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STORED_BUFFERS = ("position_ids",)


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


def all_folders(kind: str) -> dict[str, Path]:
    """Portable name → folder, for every model where this kind lives; an earlier root wins.

    Looks two levels deep, so that both `name` and `owner/name` are found.
    """
    found: dict[str, Path] = {}
    marker = KINDS[kind].marker
    for root in model_roots(kind):
        for file in sorted([*root.glob(f"*/{marker}"), *root.glob(f"*/*/{marker}")]):
            found.setdefault(file.parent.relative_to(root).as_posix(), file.parent)
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


def find_model(name: str, kind: str) -> Path:
    """The folder of a model by its portable name.

    Raises:
        FileNotFoundError: there is none of that name, or it is not complete; says where it
            looked and what to do.
        ValueError: it is a model of another kind; says which node it belongs to.
    """
    folder = all_folders(kind).get(name)
    wanted = KINDS[kind]
    if folder is not None and kind_of(folder) == kind:
        return folder
    known = ", ".join(list_models(kind)) or "none"
    if folder is None:
        roots = ", ".join(str(root) for root in model_roots(kind))
        raise FileNotFoundError(
            f"No model named {name!r} for {wanted.loader}. Found: {known}. Looked in: {roots}. "
            f"Put the folder of {wanted.published} (or another) into the first of these, then "
            "press R in the page."
        )
    found = kind_of(folder)
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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one component, whole or in shards; pickles are never opened."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if not re.search(r"\.(fp16|bf16|non_ema)[.-]", file.name)]
    if plain or files:
        return plain or files
    if list(folder.glob("*.bin")):
        raise ValueError(
            f"{folder} has weights only as .bin (a Python pickle, which can run code). Load it "
            "once in diffusers and call save_pretrained(…, safe_serialization=True), or download "
            "the safetensors; for controlnet-depth they are at revision refs/pr/5."
        )
    raise FileNotFoundError(f"{folder} has no .safetensors weights. Download the model again.")


def todays_name(stored: str) -> str:
    """A tensor's name, with attention layers as diffusers has named them since 0.17."""
    return ".".join(RENAMED.get(part, part) for part in stored.split("."))


def read_weights(
    files: list[Path], expected: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Read the tensors that `expected` names, in `dtype`, one after the other.

    All names and shapes are checked before anything is read.

    Raises:
        ValueError: a file is damaged, or tensors are missing, unexpected or misshapen.
    """
    sources: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, list[int]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for stored in tensors.keys():  # noqa: SIM118 (not a mapping)
                    name = stored if stored in expected else todays_name(stored)
                    sources[name] = (file, stored)
                    shapes[name] = list(tensors.get_slice(stored).get_shape())
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged or not a safetensors file ({error}). Download it again."
            ) from error
    problems = {
        "missing": [name for name in expected if name not in shapes],
        "unexpected": [
            name for name in shapes if name not in expected and not name.endswith(STORED_BUFFERS)
        ],
        "of another shape": [
            f"{name} {shapes[name]} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in shapes and shapes[name] != list(tensor.shape)
        ],
    }
    if any(problems.values()):
        details = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
            for what, names in problems.items()
            if names
        )
        raise ValueError(
            f"The weights in {files[0].parent} do not fit its config.json. {details}. "
            "Download the folder again."
        )
    weights = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name, (source, stored) in sources.items():
                if source == file and name in expected:
                    tensor = tensors.get_tensor(stored)
                    weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return weights


def build_module(build: Any, folder: Path, weight_dtype: torch.dtype, ops: Any) -> Any:
    """Build a module without memory for its weights, then give it the stored tensors themselves.

    Args:
        build: config dict → module; runs while new parameters go to the meta device.
        folder: a component's folder, with config.json and safetensors.
        ops: the host's operations; see `swap_ops`.
    """
    config = read_json(folder / "config.json")
    with accelerate.init_empty_weights():
        module = build(config)
    swap_ops(module, ops)
    weights = read_weights(weight_files(folder), module.state_dict(), weight_dtype)
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)
