"""Headers of safetensors files: which tensors a file holds, and whether they fit a module."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .configs import read_json, refuse_pointer

# The names that diffusers and transformers give to a component's weights, with their variants.
STEMS = ("diffusion_pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16", ".non_ema")

# Names in older files → the current names; and buffers that older files stored needlessly.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STORED_BUFFERS = ("position_ids",)
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of one component, whole or in shards. Pickles are never opened.

    The files that diffusers and transformers would load come before others, such as a second copy
    of the weights from before or after training.

    Raises:
        FileNotFoundError, ValueError: there are none, or not all. The message says which are there.
    """
    files = {
        file.name: file
        for file in sorted(folder.glob("*.safetensors"))
        # macOS writes these files about other files.
        if file.is_file() and not file.name.startswith("._")
    }
    problem = None
    for variant in VARIANTS:
        for stem in STEMS:
            whole = files.get(f"{stem}{variant}.safetensors")
            index = folder / f"{stem}.safetensors.index{variant}.json"
            try:
                if whole:
                    refuse_pointer(whole)
                    return [whole]
                if os.path.isfile(index):
                    return read_index(index)
            except (OSError, ValueError) as error:
                problem = problem or error  # another variant may be complete
    if problem:
        raise problem
    if files:
        return list(files.values())
    if list(folder.glob("*.bin")):
        raise ValueError(
            f"{folder} has weights only as .bin (a Python pickle, which can run code). Load it "
            "once in diffusers and call save_pretrained(…, safe_serialization=True), or download "
            "the safetensors; for controlnet-depth they are at revision refs/pr/5."
        )
    raise FileNotFoundError(f"{folder} has no .safetensors weights. Download the model again.")


def read_index(index: Path) -> list[Path]:
    """Return the shards that an index names."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} has no weight_map. Download the folder again.")
    shards = sorted({str(name) for name in names.values()})
    for name in shards:
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise FileNotFoundError(
                f"{index} names {name!r:.80}, which is not there. Download the folder again."
            )
    return [index.parent / name for name in shards]


@contextmanager
def open_tensors(file: Path) -> Generator[Any]:
    """Open a safetensors file. Raise OSError or ValueError that names it and says what to do."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        refuse_pointer(file)
        raise ValueError(
            f"{file} is damaged or not a safetensors file ({error}). Download it again."
        ) from error
    except OSError as error:
        raise OSError(f"{file} cannot be read: {error}.") from error


def current_name(stored: str) -> str:
    """Return a tensor's name, with the names of attention layers that diffusers uses since 0.17."""
    return ".".join(RENAMED.get(part, part) for part in stored.split("."))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, as the file's header describes it."""

    file: Path
    name: str
    shape: list[int]
    dtype: torch.dtype | None  # None: not a floating-point number


def tensor_names(file: Path) -> set[str]:
    """Return the names of a file's tensors. Raise OSError or ValueError if it cannot be read."""
    with open_tensors(file) as tensors:
        return set(tensors.keys())


def read_headers(files: list[Path]) -> list[StoredTensor]:
    """Return all tensors of the files. Only the headers are read.

    Raises:
        ValueError: a file is damaged.
    """
    found = []
    for file in files:
        with open_tensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                tensor = tensors.get_slice(name)
                dtype = DTYPES.get(tensor.get_dtype())
                found.append(StoredTensor(file, name, tensor.get_shape(), dtype))
    return found


def current_names(
    stored: list[StoredTensor], expected: dict[str, torch.Tensor], prefix: str = ""
) -> dict[str, StoredTensor]:
    """Return name in the module → stored tensor, for each tensor that belongs to the module.

    Args:
        prefix: if names begin with it, only those belong to the module (ComfyUI's checkpoints).

    Raises:
        ValueError: two tensors have one name, so that one of them would be lost.
    """
    named: dict[str, StoredTensor] = {}
    for tensor in [s for s in stored if s.name.startswith(prefix)] or stored:
        name = tensor.name.removeprefix(prefix)
        name = name if name in expected else current_name(name)
        if (other := named.setdefault(name, tensor)) is not tensor:
            raise ValueError(
                f"{name} is in {tensor.file} ({tensor.name}) and in {other.file} ({other.name}). "
                "Move away the file, or the copy of the weights, that you do not want."
            )
    return named


def find_mismatches(
    stored: dict[str, StoredTensor], expected: dict[str, torch.Tensor]
) -> dict[str, list[str]]:
    """Return difference → names of the tensors that have it. It is empty if all tensors fit."""
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
        "no floating-point numbers": [
            name
            for name, tensor in expected.items()
            if name in stored and tensor.is_floating_point() and stored[name].dtype is None
        ],
    }
    return {what: names for what, names in problems.items() if names}


def describe_mismatches(problems: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in problems.items()
    )
