"""Headers of safetensors files: which tensors a file holds, and whether they fit a module."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

# Names that older files use → the current ones; and buffers that older files stored needlessly.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STORED_BUFFERS = ("position_ids",)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


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


def current_name(stored: str) -> str:
    """A tensor's name, with attention layers as diffusers has named them since 0.17."""
    return ".".join(RENAMED.get(part, part) for part in stored.split("."))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, as the file's header describes it."""

    file: Path
    name: str
    shape: list[int]
    dtype: torch.dtype | None  # None: not a floating-point number


def read_headers(files: list[Path]) -> list[StoredTensor]:
    """All tensors of the files; only the headers are read.

    Raises:
        ValueError: a file is damaged.
    """
    found = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    tensor = tensors.get_slice(name)
                    dtype = DTYPES.get(tensor.get_dtype())
                    found.append(StoredTensor(file, name, tensor.get_shape(), dtype))
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged or not a safetensors file ({error}). Download it again."
            ) from error
    return found


def current_names(
    stored: list[StoredTensor], expected: dict[str, torch.Tensor], prefix: str = ""
) -> dict[str, StoredTensor]:
    """A module's own name for each tensor that is stored for it.

    Args:
        prefix: where names begin with it, only those are the module's (ComfyUI's checkpoints).
    """
    named = {}
    for tensor in [s for s in stored if s.name.startswith(prefix)] or stored:
        name = tensor.name.removeprefix(prefix)
        named[name if name in expected else current_name(name)] = tensor
    return named


def find_mismatches(
    stored: dict[str, StoredTensor], expected: dict[str, torch.Tensor]
) -> dict[str, list[str]]:
    """What keeps the stored tensors from being the module's; empty where they are."""
    problems = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [
            name for name in stored if name not in expected and not name.endswith(STORED_BUFFERS)
        ],
        "of another shape": [
            f"{name} {stored[name].shape} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in stored and stored[name].shape != list(tensor.shape)
        ],
    }
    return {what: names for what, names in problems.items() if names}


def describe_mismatches(problems: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in problems.items()
    )
