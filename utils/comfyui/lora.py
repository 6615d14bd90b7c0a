"""LoRA files → patches on the decoder's UNet or on the prior's transformer.

`files.lora_names` knows the names that trainers give to a weight. ComfyUI's own loader does the
rest, for LoRA, DoRA, LoHa, LoKr and whatever else it reads.
"""

import logging
from pathlib import Path
from typing import Any

import comfy.lora
import torch

from ..files.lora_names import NETWORKS, Network, looks_like, weight_names
from ..files.lora_tensors import read_tensors
from ..kandinsky.checks import check_numbers
from .model import kandinsky_of
from .prior import LoadedPrior

log = logging.getLogger("kandinsky22")


def fits(patch: Any, key: str, shape: torch.Size) -> bool:
    """Whether ComfyUI can apply a patch to a weight; later it would only log that it cannot."""
    if isinstance(patch, tuple):  # ("diff" or "set", (tensor, …))
        return patch[1][0].shape == shape
    applied = []
    try:
        patch.calculate_weight(
            torch.zeros(shape), key, 1.0, 1.0, None, lambda change: applied.append(change) or change
        )
    except RuntimeError:  # its own parts do not fit together
        return False
    return bool(applied)


def read_patches(path: Path, weights: dict[str, torch.Tensor], network: Network) -> dict[str, Any]:
    """The key of a weight → what ComfyUI is to add to it.

    Raises:
        ValueError: the file is damaged, for another model, or for one of other widths.
    """
    tensors = read_tensors(path, network.dotted)
    names = weight_names(weights, network)
    try:
        patches = comfy.lora.load_lora(tensors, names, log_missing=False)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}: it is damaged. Download it again.") from error
    if not patches:
        others = [n for n in NETWORKS.values() if n is not network and looks_like(n, tensors)]
        advice = f"Use {others[0].node} for it." if others else "Choose one for Kandinsky 2.2."
        ours = [name for name in names if name.endswith("to_q")]
        raise ValueError(
            f"{path.name} has nothing for {network.title}. It names {', '.join(list(tensors)[:3])}"
            f", …; known here are {', '.join(ours[:3])}, … {advice}"
        )
    for key, patch in patches.items():
        if not fits(patch, key, weights[key].shape):
            parts = patch[1] if isinstance(patch, tuple) else patch.weights
            sizes = " and ".join(str(list(part.shape)) for part in parts if torch.is_tensor(part))
            raise ValueError(
                f"{path.name} is for a model of other widths: for "
                f"{key.removeprefix(network.prefix)} it has {sizes}, and this model has "
                f"{list(weights[key].shape)}. Use it with the model it was trained on."
            )
    left = [key for key in tensors if key not in tensors.used]
    if left:
        text = f"{len(left)} tensors are not for {network.title} and are left out"
        log.warning("%s: %s: %s", path.name, text, ", ".join(left[:3]))
    return patches


def apply_lora(patcher: Any, path: Path, strength: float, network: Network) -> Any:
    """A clone of a ModelPatcher with a LoRA on it; at strength 0 the patcher itself."""
    (strength,) = check_numbers(strength=strength)
    if strength == 0:
        return patcher
    patches = read_patches(path, patcher.model_state_dict(), network)
    clone = patcher.clone()
    clone.add_patches(patches, strength)
    return clone


def apply_to_decoder(model: Any, path: Path, strength: float) -> Any:
    """The MODEL with a LoRA file on it. Raises ValueError if the MODEL is another model's."""
    kandinsky_of(model)
    return apply_lora(model, path, strength, NETWORKS["decoder"])


def apply_to_prior(prior: LoadedPrior, path: Path, strength: float) -> LoadedPrior:
    """The prior with a LoRA file on its transformer."""
    patcher = prior.transformer.patcher
    patched = apply_lora(patcher, path, strength, NETWORKS["prior"])
    return prior if patched is patcher else prior.with_transformer(patched)
