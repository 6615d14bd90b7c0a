"""A component's safetensors files → a module that holds the stored tensors."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from diffusers.models.modeling_utils import no_init_weights
from safetensors import SafetensorError, safe_open

from .checkpoints import read_json
from .residency import swap_ops

# Names that older files use → today's; and buffers that older files stored needlessly.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STORED_BUFFERS = ("position_ids",)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
BLOCK = 2**26  # numbers


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


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, known by its header."""

    file: Path
    name: str
    shape: list[int]
    dtype: torch.dtype | None  # None: not a floating-point number


def list_stored(files: list[Path]) -> list[Stored]:
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
                    found.append(Stored(file, name, tensor.get_shape(), dtype))
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged or not a safetensors file ({error}). Download it again."
            ) from error
    return found


def todays_names(
    stored: list[Stored], expected: dict[str, torch.Tensor], prefix: str = ""
) -> dict[str, Stored]:
    """A module's own name for each tensor that is stored for it.

    Args:
        prefix: where names begin with it, only those are the module's (ComfyUI's checkpoints).
    """
    named = {}
    for tensor in [s for s in stored if s.name.startswith(prefix)] or stored:
        name = tensor.name.removeprefix(prefix)
        named[name if name in expected else todays_name(name)] = tensor
    return named


def misfits(stored: dict[str, Stored], expected: dict[str, torch.Tensor]) -> dict[str, list[str]]:
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


def in_words(problems: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in problems.items()
    )


def build_empty(build: Any, config: dict[str, Any]) -> Any:
    """A module without memory for its weights; its small buffers are real."""
    with no_init_weights(), accelerate.init_empty_weights():
        return build(config)


def recognise(
    file: Path, candidates: list[tuple[str, dict[str, Any]]], build: Any, prefix: str = ""
) -> dict[str, Any]:
    """The first config whose module has the tensors of a file; no weights are read.

    Args:
        candidates: (whose config it is, config).
        build: config → module; it is built without memory.
        prefix: see `todays_names`.

    Raises:
        ValueError: the file is damaged, or fits none; says how the nearest differs.
    """
    stored = list_stored([file])
    differences = []
    for title, config in candidates:
        expected = build_empty(build, config).state_dict()
        problems = misfits(todays_names(stored, expected, prefix), expected)
        if not problems:
            return config
        differences.append((sum(map(len, problems.values())), title, in_words(problems)))
    _, title, details = min(differences)
    names = ", ".join(tensor.name for tensor in stored[:2])
    raise ValueError(
        f"The {len(stored)} tensors of {file} ({names}, …) are not what this node takes. Nearest "
        f"is {title}: {details}. Choose another file."
    )


def in_blocks(
    named: list[tuple[str, Stored]], dtype: torch.dtype
) -> Iterator[list[tuple[str, Stored]]]:
    """Tensors in groups, for each of which the file is opened anew.

    What a mapping has touched counts as this process's memory until it is closed; so a file that is
    read into another type is never in memory as a whole. In its own type it is not read at all, but
    mapped: one group.
    """
    block, numbers = [], 0
    for name, tensor in named:
        block.append((name, tensor))
        numbers += math.prod(tensor.shape) if tensor.dtype not in (dtype, None) else 0
        if numbers >= BLOCK:
            yield block
            block, numbers = [], 0
    yield block


def read_weights(
    files: list[Path], expected: dict[str, torch.Tensor], dtype: torch.dtype, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Read the tensors that `expected` names, in `dtype`, one after the other.

    All names and shapes are checked before anything is read.

    Raises:
        ValueError: a file is damaged, or tensors are missing, unexpected or misshapen.
    """
    stored = todays_names(list_stored(files), expected, prefix)
    problems = misfits(stored, expected)
    if problems:
        raise ValueError(
            f"The weights in {files[0].parent} do not fit its config.json. {in_words(problems)}. "
            "Download the folder again."
        )
    weights = {}
    for file in files:
        wanted = [(n, s) for n, s in stored.items() if s.file == file and n in expected]
        for block in in_blocks(wanted, dtype):
            with safe_open(file, framework="pt") as tensors:
                for name, source in block:
                    tensor = tensors.get_tensor(source.name)
                    weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return weights


def build_module(build: Any, folder: Path, weight_dtype: torch.dtype, ops: Any) -> Any:
    """A component's folder, with config.json and safetensors → its module; see `fill_module`."""
    config = read_json(folder / "config.json")
    return fill_module(build, config, weight_files(folder), weight_dtype, ops)


def fill_module(
    build: Any,
    config: dict[str, Any],
    files: list[Path],
    weight_dtype: torch.dtype,
    ops: Any,
    prefix: str = "",
) -> Any:
    """Build a module without memory for its weights, then give it the stored tensors themselves.

    Args:
        build: config → module; runs while new parameters go to the meta device.
        ops: the host's operations; see `swap_ops`.
        prefix: see `todays_names`.
    """
    module = build_empty(build, config)
    swap_ops(module, ops)
    module.load_state_dict(
        read_weights(files, module.state_dict(), weight_dtype, prefix), assign=True
    )
    return module.eval().requires_grad_(False)
