"""The safetensors files of a component → a module that holds the stored tensors."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import torch
from diffusers.models.modeling_utils import no_init_weights

from .arguments import wrong_arguments
from .configs import naming, read_config
from .headers import (
    StoredTensor,
    current_names,
    describe_mismatches,
    find_mismatches,
    open_tensors,
    read_headers,
    weight_files,
)
from .layers import swap_layers
from .trials import try_run

BLOCK = 2**26  # numbers
# A name among a file's tensors → the kind of the file, and the node that loads it.
CONTENTS = (
    (re.compile("lora|lokr|hada_w"), "a LoRA's", "Load Decoder LoRA or Load Prior LoRA"),
    (re.compile(r"\bquantize\.embedding\b"), "a MoVQ's", "Load MoVQ"),
    (
        re.compile(r"\bproj_to_clip_embeddings\b"),
        "the transformer of a prior",
        "Load Prior Transformer",
    ),
    (re.compile(r"\bencoder_hid_proj\b"), "a decoder's UNet", "Load UNet"),
)


def build_empty(build: Any, config: Any, source: Any) -> Any:
    """Build a module without memory for its weights. Its small buffers are real.

    Raises:
        ValueError: this config makes no module. The message names `source`, the config's origin.
    """
    with naming(source):
        return make_empty(build, config)


def make_empty(build: Any, config: Any) -> Any:
    # CLIP's vision model always draws its class embedding. fork_rng keeps that draw from changing
    # other random numbers.
    with no_init_weights(), accelerate.init_empty_weights(), torch.random.fork_rng(devices=[]):
        return build(config)


def recognise(
    file: Path, candidates: list[tuple[str, dict[str, Any]]], build: Any, prefix: str = ""
) -> dict[str, Any]:
    """Return the first config whose module has the tensors of a file. No weights are read.

    Args:
        candidates: (title, config).
        build: config → module; it is built without memory.
        prefix: see `current_names`.

    Raises:
        ValueError: the file is damaged, or fits none. The message says how the nearest differs.
    """
    stored = read_headers([file])
    differences = []
    for title, config in candidates:
        try:
            expected = build_empty(build, config, title).state_dict()
        except ValueError:
            continue  # the config of a damaged folder, whose own loader reports the error
        problems = find_mismatches(current_names(stored, expected, prefix), expected)
        if not problems:
            return config
        details = describe_mismatches(problems)
        differences.append((sum(map(len, problems.values())), title, details, list(expected)))
    _, title, details, expected = min(differences)
    names = ", ".join(tensor.name for tensor in stored[:2])
    raise ValueError(
        f"The {len(stored)} tensors of {file} ({names}, …) are not what this node takes. "
        f"Nearest is {title}: {details}. {describe_contents(stored, expected)}"
    )


def describe_contents(stored: list[StoredTensor], expected: list[str]) -> str:
    """Return what to do with a file: the kind of its tensors, and the node that loads them."""
    names, ours = "\n".join(tensor.name for tensor in stored), "\n".join(expected)
    for pattern, contents, node in CONTENTS:
        if pattern.search(names) and not pattern.search(ours):
            return f"They are {contents}: choose this file in {node}, or another one here."
    return "Choose another file."


def in_blocks(
    named: list[tuple[str, StoredTensor]], dtype: torch.dtype
) -> Iterator[list[tuple[str, StoredTensor]]]:
    """Yield tensors in groups, for each of which the file is opened again.

    All that is read through a memory mapping counts as this process's memory until the mapping is
    closed. So a file that is converted to another dtype is never in memory as a whole. In its own
    dtype it is only mapped, and is one group.
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
        ValueError: a file is damaged, or tensors are missing, unexpected or of a wrong shape.
    """
    stored = current_names(read_headers(files), expected, prefix)
    problems = find_mismatches(stored, expected)
    if problems:
        raise ValueError(
            f"The weights in {files[0].parent} do not fit its config.json. "
            f"{describe_mismatches(problems)}. Download the folder again."
        )
    weights = {}
    for file in files:
        wanted = [(n, s) for n, s in stored.items() if s.file == file and n in expected]
        for block in in_blocks(wanted, dtype):
            with open_tensors(file) as tensors:
                for name, source in block:
                    tensor = tensors.get_tensor(source.name)
                    weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return weights


def build_module(build: Any, schema: Any, folder: Path, weight_dtype: torch.dtype, ops: Any) -> Any:
    """Build the module of a component's folder with config.json and safetensors; see `fill_module`.

    Args:
        schema: the class whose arguments the config holds.
    """
    path = folder / "config.json"
    config = read_config(path, schema)
    files = weight_files(folder)
    check_config(build, schema, config, path)
    return fill_module(build, config, files, weight_dtype, ops)


def check_config(build: Any, schema: Any, config: dict[str, Any], path: Path) -> None:
    """Raise ValueError for a config that has values of odd types and does not work.

    Most of those work. A config without such values is not tried.
    """
    if doubts := wrong_arguments(config, schema):
        with naming(f"{path} ({', '.join(doubts[:3])})"):
            try_run(make_empty(build, config))


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
        ops: the classes of its layers; see `swap_layers`.
        prefix: see `current_names`.
    """
    module = build_empty(build, config, files[0].with_name("config.json"))
    swap_layers(module, ops)
    module.load_state_dict(
        read_weights(files, module.state_dict(), weight_dtype, prefix), assign=True
    )
    return module.eval().requires_grad_(False)
