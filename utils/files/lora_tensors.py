"""The tensors of a LoRA file, with their alphas."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

PEFT_CONFIG = "lora_adapter_metadata"  # where diffusers keeps it in a file's metadata


class LoraTensors(dict[str, Any]):
    """The tensors of a LoRA file, by name; `used` has the names that have been asked for."""

    def __init__(self, tensors: dict[str, torch.Tensor], used: Iterable[str] = ()):
        super().__init__(tensors)
        self.used = set(used)

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default


def read_tensors(path: Path, roots: tuple[str, ...]) -> LoraTensors:
    """A file's tensors, with those alphas that diffusers keeps in the metadata.

    Args:
        roots: what may stand before the names of the network that is meant.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            config = json.loads((file.metadata() or {}).get(PEFT_CONFIG, "{}"))
        for root in roots:
            config |= {k.removeprefix(root): v for k, v in config.items() if k.startswith(root)}
        alphas = {k: v for k, v in peft_alphas(config, tensors).items() if k not in tensors}
    except (SafetensorError, ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}). Download it again."
        ) from error
    return LoraTensors(tensors | alphas, alphas)


def peft_alphas(
    config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What peft's config says of alpha, as the `.alpha` tensors that ComfyUI looks for."""
    if "lora_alpha" not in config:
        return {}
    special = (config.get("alpha_pattern") or {}).items()
    alphas = {}
    for key, down in tensors.items():
        if found := re.fullmatch(r"(.+)\.(lora_A|lora\.down)\.(default\.)?weight", key):
            module = found[1]
            named = [alpha for name, alpha in special if re.fullmatch(rf"(.*\.)?({name})", module)]
            alpha = (named or [config["lora_alpha"]])[0]
            if config.get("use_rslora"):  # alpha / √rank, where the host divides by the rank
                alpha *= len(down) ** 0.5
            alphas[f"{module}.alpha"] = torch.tensor(float(alpha))
    return alphas
