"""The strength of each part of a LoRA.

ComfyUI looks for `.alpha` tensors. A file has none if peft or diffusers keeps the strength
elsewhere.
"""

import torch

from .lora_checks import Parts
from .lora_tensors import LoraFile
from .peft_configs import PeftConfig, is_literal, read_sidecar, sidecars

# Parts whose length is the rank, for the kinds whose strength may be kept elsewhere.
RANKED = ("lora_A.weight", "lora.down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
KINDS = (*RANKED, "lokr_w1")


def give_alphas(file: LoraFile) -> list[str]:
    """Give an alpha to each module that has none, by peft's settings. Return notes for the user."""
    without = {
        module: parts
        for module, parts in file.modules.items()
        if "alpha" not in parts and any(kind in parts for kind in KINDS)
    }
    config, notes = file.config, list[str]()
    if not config and without and file.is_peft:
        config, notes = find_sidecar(file, {r for parts in without.values() if (r := rank(parts))})
        if not config:
            notes.append(
                f"{file.path.name}: the alpha of its training is not in it, and no adapter_config"
                ".json beside it says it: alpha = rank is assumed. Put that file of its training "
                "beside it; or give strength the value of alpha divided by the rank."
            )
    if config:
        for module, parts in without.items():
            give_alpha(parts, file.written[module], config)
        notes += unread_patterns(file, config)
    for parts in file.modules.values():
        if "lora_B.bias" in parts:  # peft scales it as it scales the weight
            scale = parts["alpha"] / len(parts["lora_A.weight"]) if "alpha" in parts else 1.0
            parts["diff_b"] = parts["lora_B.bias"].float() * scale
    return notes


def rank(parts: Parts) -> int | None:
    """Return the rank of a module, or None for a LoKr of two whole matrices, which shows none."""
    return next((len(parts[name]) for name in RANKED if name in parts), None)


def find_sidecar(file: LoraFile, ranks: set[int]) -> tuple[PeftConfig | None, list[str]]:
    """Return the settings beside a file that fit it, and notes about those that do not."""
    notes: list[str] = []
    for path in sidecars(file.path):
        if config := read_sidecar(path):
            if config.is_of(ranks):
                return config, notes
            notes.append(
                f"{file.path.name}: {path.name} beside it is another adapter's: it has other ranks "
                f"than {', '.join(map(str, sorted(ranks)))}. It is not used."
            )
    return None, notes


def give_alpha(parts: Parts, name: str, config: PeftConfig) -> None:
    alpha, length = config.alpha_of(name), rank(parts)
    if length is None:  # ComfyUI knows no alpha for it
        parts["lokr_w1"] = parts["lokr_w1"].float() * (alpha / config.rank_of(name))
        return
    is_lora = "lora_A.weight" in parts or "lora.down.weight" in parts
    if config.rslora and is_lora:  # alpha / √rank, where ComfyUI divides by the rank
        alpha *= length**0.5
    parts["alpha"] = torch.tensor(alpha)


def unread_patterns(file: LoraFile, config: PeftConfig) -> list[str]:
    patterns = [
        *config.alpha_pattern,
        *(
            config.rank_pattern
            if any(rank(parts) is None for parts in file.modules.values())
            else ()
        ),
    ]
    if unread := [pattern for pattern in patterns if not is_literal(pattern)]:
        return [
            f"{file.path.name}: {len(unread)} patterns of {config.origin.path.name} are regular "
            "expressions, which are not run here; the general strength is taken where they would "
            f"count: {', '.join(f'{pattern!r:.60}' for pattern in unread[:3])}"
        ]
    return []
