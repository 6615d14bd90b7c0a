"""A component's safetensors files → a module that holds the stored tensors."""

import re
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors import SafetensorError, safe_open

from .checkpoints import read_json
from .residency import swap_ops

# Names that older files use → today's; and buffers that older files stored needlessly.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STORED_BUFFERS = ("position_ids",)


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
