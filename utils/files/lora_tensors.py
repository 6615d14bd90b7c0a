"""Read a LoRA file: for each module that it changes, the parts of the change."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .headers import open_tensors
from .lora_checks import Parts, check_tensor, check_whole
from .lora_names import Network, Part, find_part
from .peft_configs import METADATA_KEY, Origin, PeftConfig, make_config, parse_json

# The names of parts made from those that ComfyUI does not read.
COMFYUI_NAMES = {"lora_B.bias": "diff_b"}


@dataclass
class LoraFile:
    """The tensors of a LoRA file for one network."""

    path: Path
    network: Network
    keys: list[str]  # all names in the file
    modules: dict[str, Parts] = field(default_factory=dict[str, Parts])
    places: dict[str, Part] = field(default_factory=dict[str, Part])  # of those in modules
    # Modules → their names in the file
    written: dict[str, str] = field(default_factory=dict[str, str])
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
        """Return the file's names of all tensors but those in `used`, which has ComfyUI's names."""
        named = {
            key: f"{part.module}.{COMFYUI_NAMES.get(part.ending, part.ending)}"
            for key, part in self.places.items()
        }
        return [key for key in self.keys if named.get(key) not in used]


class LoraTensors(dict[str, Any]):
    """Tensors by name for ComfyUI's loader. `used` has the names that it has read."""

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
    """Read and check a file's tensors for a network. Other tensors are not read.

    Args:
        names: of the network's modules, by `weight_names`.

    Raises:
        ValueError: the file is damaged, or no LoRA can have such a tensor.
    """
    metadata = ""
    try:
        with open_tensors(path) as opened:
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
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({error!s:.200}). Download it again.") from error
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
    """Return peft's settings from a file's metadata. A pipeline writes a root before each name."""
    origin = Origin(path, "in its metadata, ")
    config = parse_json(text, origin)
    for root in roots:
        config |= {k.removeprefix(root): v for k, v in config.items() if k.startswith(root)}
    return make_config(config, origin)
