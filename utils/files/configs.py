"""The JSON files of a model folder.

A folder can come from anyone. So the content of its files reaches neither code nor the network.
Sizes that no real model has are refused before any memory is allocated.
"""

import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .arguments import only_arguments

LARGEST_FILE = 10 * 2**20  # bytes; a config has a few thousand
GIT_LFS = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER = 1024  # bytes, by the specification of git-lfs
# Keys that make transformers or diffusers choose, download or run code or models from elsewhere.
IGNORED = re.compile(
    r"_implementation|auto_map|quantization_config|per_layer_config|kernel_config|use_kernels"
    r"|^backbone$|^backbone_kwargs$|use_pretrained_backbone|use_timm_backbone"
)
# Keys → the smallest and the largest number in them. Layers are built one by one, and the tables of
# positions and noise levels take real memory even if the weights do not.
LIMITS = (
    (re.compile(r"heads|timesteps|groups|head_dim"), 1, 100_000),
    (re.compile(r"layers|^depths?$|num_blocks|num_stages"), 0, 256),
    (re.compile(r"divisor|multiple_of"), 0, 512),
    (re.compile(r"^(num|additional)_embeddings$|image_size|_edge$|^(height|width)$"), 0, 4096),
    (re.compile(r"num_|size|channels|_dim"), 0, 1_000_000),
    (re.compile(r""), -1_000_000, 1_000_000),
)
LABELS = ("id2label", "label2id")
MOST_BLOCKS = 500  # of a UNet, including the layers in each


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        FileNotFoundError, OSError, ValueError: the message names the file and what to do.
    """
    if not os.path.isfile(path):  # this also refuses files that block a reader, such as a pipe
        raise FileNotFoundError(
            f"{path} is missing: the model folder is not complete. Download it again."
        )
    if os.path.getsize(path) > LARGEST_FILE:
        raise ValueError(f"{path} has over {LARGEST_FILE} bytes, as no config. Download it again.")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise ValueError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object but {content!r:.40}. Download it again.")
    return content


def refuse_pointer(path: Path) -> None:
    """Raise ValueError for the text that git leaves in a file's place without git-lfs."""
    if path.stat().st_size > LONGEST_POINTER:
        return  # The file is not opened. It may be a prior's image encoder, which is seldom needed.
    with path.open("rb") as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            raise ValueError(
                f"{path} is a Git LFS pointer, not the file: the repository was cloned without "
                "git-lfs. Run `git lfs install` and `git lfs pull` in it, or let Get Models "
                "(Kandinsky 2.2) fetch the files."
            )


def read_config(path: Path, schema: Any = None) -> dict[str, Any]:
    """Read a config without the keys that must not be followed.

    `schema` is the class whose arguments the config holds.

    Raises:
        FileNotFoundError, OSError, ValueError: the file is missing, damaged, or holds a number that
            no real model has. The message names the file, the key and the value.
    """
    config = without_ignored(read_json(path))
    # Keys that the class does not take have no effect, whatever their values.
    counting = config if schema is None else only_arguments(config, schema)
    problems = out_of_bounds(counting)
    if count_blocks(config) > MOST_BLOCKS:
        problems.append(f"it asks for {count_blocks(config)} blocks, and {MOST_BLOCKS} is the most")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems[:3])}. Download the folder again.")
    return config


@contextmanager
def naming(source: Any) -> Generator[None]:
    """Turn an error of a library over a file's contents into a ValueError that names the file.

    Libraries check little of a config, so they may raise nearly any exception.
    """
    try:
        yield
    except Exception as error:
        text = str(error).lower()
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if is_memory or "out of memory" in text or "allocate memory" in text:
            raise  # ComfyUI has its own message for it
        raise ValueError(f"{source} cannot be used: {error!r:.300}. Download it again.") from error


def count_blocks(config: dict[str, Any]) -> int:
    """Return how many blocks a UNet's config asks for."""

    def most(key: str) -> int:
        value = config.get(key)
        numbers = [n for n in (value if isinstance(value, list) else [value]) if type(n) is int]
        return max([1, *numbers])

    types = config.get("down_block_types")
    levels = len(types) if isinstance(types, list) else 1
    return levels * most("layers_per_block") * most("transformer_layers_per_block")


def without_ignored(value: Any) -> Any:
    """Return the same JSON without the keys of IGNORED, at any depth."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if not IGNORED.search(key)}
        return {key: without_ignored(part) for key, part in kept.items()}
    return [without_ignored(part) for part in value] if isinstance(value, list) else value


def out_of_bounds(value: Any, key: str = "") -> list[str]:
    """Return the numbers in a config that no real model has, as texts.

    NaN is always one of them.
    """
    if isinstance(value, dict):
        # The labels of a backbone's classes can be any words, and are not keys.
        parts = {name: part for name, part in value.items() if name not in LABELS}
        return [text for name, part in parts.items() for text in out_of_bounds(part, name)]
    if isinstance(value, list):
        return [text for part in value for text in out_of_bounds(part, key)]
    if not isinstance(value, int | float):
        return []
    least, most = next(limits for pattern, *limits in LIMITS if pattern.search(key))
    # A switch is not a count of heads or of noise levels.
    is_switch = isinstance(value, bool) and least < 1
    if is_switch or (least <= value <= most and not isinstance(value, bool)):
        return []
    return [f"{key} is {value!r:.40}, and {least} to {most} makes sense"]
