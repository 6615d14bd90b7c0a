"""What a LoRA file holds: for each module that it changes, the parts of the change."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .lora_names import Network, Part, find_part
from .peft_configs import METADATA_KEY, Origin, PeftConfig, make_config, parse_json

Parts = dict[str, torch.Tensor]  # by their endings
# Parts that are nothing without one another.
WHOLES = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("hada_t1", "hada_t2"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
    ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
)
COMFYUI_NAMES = {"lora_B.bias": "diff_b"}  # of what is made from a part that ComfyUI does not read
# Parts of which the first has as many rows and columns as the others have rows.
TUCKER = (
    ("hada_t1", "hada_w1_a", "hada_w1_b"),
    ("hada_t2", "hada_w2_a", "hada_w2_b"),
    ("lokr_t2", "lokr_w2_a", "lokr_w2_b"),
)
# A part → what it cannot be used without.
WITH = {
    "lora_magnitude_vector": ("lora_A.weight", "lora_down.weight", "lora.down.weight"),
    "hada_t1": ("hada_w1_a",),
    "lora_B.bias": ("lora_B.weight",),
    "lokr_w1": ("lokr_w2", "lokr_w2_a"),
    "lokr_w1_a": ("lokr_w2", "lokr_w2_a"),
    "lokr_t2": ("lokr_w2_a",),
    "lokr_w2": ("lokr_w1", "lokr_w1_a"),
    "lokr_w2_a": ("lokr_w1", "lokr_w1_a"),
}
UPS = ("lora_B.weight", "lora_up.weight", "lora.up.weight", "lora_linear_layer.up.weight")


@dataclass
class LoraFile:
    """The tensors of a LoRA file for one network."""

    path: Path
    network: Network
    keys: list[str]  # all names in the file
    modules: dict[str, Parts] = field(default_factory=dict[str, Parts])
    places: dict[str, Part] = field(default_factory=dict[str, Part])  # of those in modules
    written: dict[str, str] = field(default_factory=dict[str, str])  # modules, as the file has them
    config: PeftConfig | None = None  # of the file's metadata

    @property
    def is_peft(self) -> bool:
        """Whether the names are those of peft, which keeps the strength elsewhere."""
        return any(
            part.ending.startswith(("lora_A", "lora_B", "lora_magnitude"))
            or "base_model.model." in part.written
            for part in self.places.values()
        )

    def left_out(self, used: set[str]) -> list[str]:
        """The file's names of all tensors but those that are used, by ComfyUI's names."""
        named = {
            key: f"{part.module}.{COMFYUI_NAMES.get(part.ending, part.ending)}"
            for key, part in self.places.items()
        }
        return [key for key in self.keys if named.get(key) not in used]


class LoraTensors(dict[str, Any]):
    """Tensors by name for ComfyUI's loader; `used` has the names that it has asked for."""

    def __init__(self, modules: dict[str, Parts]):
        super().__init__(
            {f"{module}.{end}": p for module, parts in modules.items() for end, p in parts.items()}
        )
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default


def read_lora(path: Path, network: Network, names: dict[str, str]) -> LoraFile:
    """A file's tensors for a network, each of them looked at; others are not read.

    Args:
        names: of the network's modules, by `weight_names`.

    Raises:
        ValueError: the file is damaged, or a tensor is nothing that a LoRA can have.
    """
    metadata = ""
    try:
        with safe_open(path, framework="pt") as opened:
            file = LoraFile(path, network, list(opened.keys()))
            for key in file.keys:
                if part := find_part(key, names, network):
                    parts = file.modules.setdefault(part.module, {})
                    if part.ending in parts:
                        raise TwiceError(key, part)
                    parts[part.ending] = opened.get_tensor(key)
                    file.places[key] = part
                    file.written.setdefault(part.module, part.written)
            metadata = (opened.metadata() or {}).get(METADATA_KEY, "")
    except TwiceError as error:
        raise ValueError(f"{path.name} {error}") from error
    except (
        SafetensorError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error!s:.200}). Download it again."
        ) from error
    if metadata:
        file.config = read_metadata(metadata, path, network.dotted)
    for key, part in file.places.items():
        check_tensor(path, key, part.ending, file.modules[part.module][part.ending])
    for module, parts in file.modules.items():
        check_whole(path, file.written[module], parts)
    return file


class TwiceError(Exception):
    def __init__(self, key: str, part: Part):
        super().__init__(
            f"has two tensors for {part.ending} of {part.module}, one of them {key}: two adapters "
            "in one file, maybe. Save each in a file of its own."
        )


def read_metadata(text: str, path: Path, roots: Iterable[str]) -> PeftConfig | None:
    """peft's settings from a file's metadata; a pipeline's have a root before each name."""
    origin = Origin(path, "in its metadata, ")
    config = parse_json(text, origin)
    for root in roots:
        config |= {k.removeprefix(root): v for k, v in config.items() if k.startswith(root)}
    return make_config(config, origin)


def check_tensor(path: Path, key: str, ending: str, tensor: torch.Tensor) -> None:
    """Raises ValueError for a tensor that no LoRA has: empty, of a wrong type, with NaN."""
    what, shape = "", list(tensor.shape)
    if ending == "alpha":
        if tensor.numel() != 1 or tensor.dtype == torch.bool or tensor.is_complex():
            what = f"a tensor of {tensor.dtype} and of shape {shape}, not one number"
        elif not abs(tensor.float().item()) < 1e38:
            what = f"{tensor.item()}, not a finite number"
    elif ending == "reshape_weight":
        what = "a new shape for a weight, which nothing here can have"
    elif not tensor.is_floating_point():
        what = f"a tensor of {tensor.dtype}, not of floating-point numbers"
    elif not tensor.numel():
        what = f"empty: its shape is {shape}"
    elif not tensor.ndim:
        what = "a single number, which is no part of a weight"
    elif not tensor.float().isfinite().all():
        what = "not finite: it has NaN or infinity in it"
    if what:
        raise ValueError(f"{path.name} is damaged: {key} is {what}. Use another file.")


def check_whole(path: Path, written: str, parts: Parts) -> None:
    """Raises ValueError if a part is there without another that it is nothing without."""
    missing = [
        next(part for part in whole if part not in parts)
        for whole in WHOLES
        if 0 < sum(part in parts for part in whole) < len(whole)
    ]
    for part, others in WITH.items():
        if part in parts and not any(other in parts for other in others):
            missing.append(others[0])
    if missing:
        name = f"{written}.{missing[0]}"
        raise ValueError(f"{path} lacks {name!r}: it is damaged. Download it again.")
    if "lora_E" in parts:
        raise ValueError(f"{path.name} is AdaLoRA ({written}.lora_E), which ComfyUI cannot apply.")


def fits_together(parts: Parts, shape: list[int]) -> bool:
    """Whether what ComfyUI does not look at is of a weight's shape, too.

    It folds any product of as many numbers into the shape, and stretches what is too short.
    """
    for core, a, b in TUCKER:
        if core in parts and list(parts[core].shape[:2]) != [len(parts[a]), len(parts[b])]:
            return False
    if "lokr_t2" in parts:
        first = parts["lokr_w1" if "lokr_w1" in parts else "lokr_w1_b"]
        core, a, b = (parts[name] for name in TUCKER[2])
        sides = [first.shape[-1] * b.shape[-1], *core.shape[2:]]
        if (first.ndim, core.ndim, a.ndim, b.ndim) != (2, 4, 2, 2) or sides != shape[1:]:
            return False
    flat = [1] * (len(shape) - 2)
    lengths = [shape[:1] + [1] + flat, [1] + shape[1:2] + flat]  # of outputs, or of inputs
    if "dora_scale" in parts and list(parts["dora_scale"].shape) not in lengths:
        return False
    return all(rows == shape[0] for rows in heights(parts))


def heights(parts: Parts) -> list[int]:
    """How many rows each product in a change has."""
    found = [len(parts[up]) for up in UPS if up in parts]
    for core, a, _ in TUCKER[:2]:
        if a in parts:
            found.append(parts[a].shape[-1] if core in parts else len(parts[a]))
    first = [parts[name] for name in ("lokr_w1", "lokr_w1_a") if name in parts]
    if first and "lokr_w2" in parts:
        found.append(len(first[0]) * len(parts["lokr_w2"]))
    elif first:
        side = -1 if "lokr_t2" in parts else 0
        found.append(len(first[0]) * parts["lokr_w2_a"].shape[side])
    return found


def unfold_core(parts: Parts) -> None:
    """Puts the second factor of a LoKr with a Tucker core beside its parts: the one that ComfyUI
    makes of them lies in memory so that it cannot multiply it."""
    core, a, b = (parts[name].float() for name in TUCKER[2])
    w2 = torch.einsum("i j k l, j r, i p -> p r k l", core, b, a).contiguous()
    if "alpha" in parts and "lokr_w1" in parts:  # of two whole factors ComfyUI counts no alpha
        w2 *= parts["alpha"] / len(b)
    parts["lokr_w2"] = w2
