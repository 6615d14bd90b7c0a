"""LoRA files → patches on the decoder's UNet or on the prior's transformer.

`files.lora_names` knows the names that trainers give to a weight, and `files.lora_alphas` where
they keep the strength. ComfyUI's own loader does the rest, for LoRA, DoRA, LoHa, LoKr and all other
kinds that it reads.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import comfy.lora
import torch

from ..files.lora_alphas import give_alphas
from ..files.lora_checks import fits_together, unfold_core
from ..files.lora_names import NETWORKS, Network, looks_like, weight_names
from ..files.lora_tensors import LoraFile, LoraTensors, read_lora
from ..kandinsky.checks import check_numbers
from .dora import with_magnitude
from .model import kandinsky_of
from .prior import ONE_PASS, LoadedPrior

log = logging.getLogger("kandinsky22")
BIASES = ("diff_b", "b_norm")  # ComfyUI's endings for them


def fits(patch: Any, key: str, shape: torch.Size) -> bool:
    """Return whether ComfyUI can apply a patch to a weight. Later it would only log an error.

    The patch is applied to a weight on PyTorch's meta device, which has a shape and no numbers.
    That costs neither time nor memory. ComfyUI catches its own errors, but a weight that it has
    changed counts how often it was written to.
    """
    if isinstance(patch, tuple):  # ("diff" or "set", (tensor, …))
        return patch[1][0].shape == shape
    # The value of alpha has no influence here, and some methods compare it with numbers.
    weights = tuple(0.0 if isinstance(part, int | float) else part for part in patch.weights)
    try:
        with torch.inference_mode(False), torch.no_grad():
            weight = torch.zeros(shape, device="meta")
            before = weight._version
            trial = type(patch)(patch.loaded_keys, weights)
            trial.calculate_weight(weight, key, 1.0, 1.0, None, lambda change: change)
            return weight._version > before
    except Exception:  # its parts do not fit together, and ComfyUI may raise any error for that
        return False


def make_patches(
    file: LoraFile, tensors: LoraTensors, places: dict[str, str], weights: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Return key of a weight → ComfyUI's patch for it.

    Args:
        places: module → the key of its weight in `weights`.
    """
    patches = comfy.lora.load_lora(tensors, places, log_missing=False)
    for module, parts in file.modules.items():
        if "lora_magnitude_vector" in parts:
            magnitude = tensors[f"{module}.lora_magnitude_vector"]
            patches[places[module]] = with_magnitude(patches[places[module]], magnitude)
    for key in set(patches) - set(weights):  # the bias of a layer that has none
        del patches[key]
        module = key.removeprefix(file.network.prefix).removesuffix(".bias")
        tensors.used -= {f"{module}.{ending}" for ending in BIASES}
    for key, patch in patches.items():
        if not fits(patch, key, weights[key].shape):
            held = patch[1] if isinstance(patch, tuple) else patch.weights
            raise other_widths(file, key, held, weights[key])
    return patches


def other_widths(file: LoraFile, key: str, held: Iterable[Any], weight: torch.Tensor) -> ValueError:
    sizes = [str(list(part.shape)) for part in held if torch.is_tensor(part) and part.ndim]
    return ValueError(
        f"{file.path.name} is for a model of other widths: for "
        f"{key.removeprefix(file.network.prefix)} it has {' and '.join(sizes)}, and this model has "
        f"{list(weight.shape)}. Use it with the model it was trained on."
    )


def read_patches(
    path: Path, weights: dict[str, torch.Tensor], network: Network
) -> tuple[dict[str, Any], list[str]]:
    """Return key of a weight → ComfyUI's patch for it, and notes for the user.

    Raises:
        ValueError: the file is damaged, for another model, or for a model of other widths.
    """
    names = weight_names(weights, network)
    file = read_lora(path, network, names)
    notes = give_alphas(file)
    places = {module: f"{network.prefix}{module}.weight" for module in file.modules}
    for module, parts in file.modules.items():
        weight = weights[places[module]]
        if not fits_together(parts, list(weight.shape)):
            raise other_widths(file, places[module], parts.values(), weight)
        if "lokr_t2" in parts:
            unfold_core(parts)
    tensors = LoraTensors(file.modules)
    patches = make_patches(file, tensors, places, weights)
    if not patches:
        others = [n for n in NETWORKS.values() if n is not network and looks_like(n, file.keys)]
        advice = f"Use {others[0].node} for it." if others else "Choose one for Kandinsky 2.2."
        ours = [name for name in names if name.endswith("to_q")]
        raise ValueError(
            f"{path.name} has nothing for {network.title}. It names {listed(file.keys)}"
            f", …; known here are {listed(ours)}, … {advice}"
        )
    if left := file.left_out(tensors.used):
        text = f"{len(left)} tensors are not for {network.title} and are left out"
        notes.append(f"{path.name}: {text}: {listed(left)}")
    for note in notes:
        log.warning("%s", note)
    return patches, notes


def listed(names: list[str]) -> str:
    return ", ".join(f"{name:.100}" for name in names[:3])


def apply_lora(
    patcher: Any, path: Path, strength: float, network: Network
) -> tuple[Any, list[str]]:
    """Return a clone of a ModelPatcher with a LoRA on it, and notes for the user.

    At strength 0 the patcher itself is returned.
    """
    (strength,) = check_numbers(strength=strength)
    if strength == 0:
        return patcher, []
    patches, notes = read_patches(path, patcher.model_state_dict(), network)
    clone = patcher.clone()
    clone.add_patches(patches, strength)
    return clone, notes


def apply_to_decoder(model: Any, path: Path, strength: float) -> tuple[Any, list[str]]:
    """Return the MODEL with a LoRA file on it.

    Raise ValueError if it is a MODEL of another model.
    """
    kandinsky_of(model)
    return apply_lora(model, path, strength, NETWORKS["decoder"])


def apply_to_prior(
    prior: LoadedPrior, path: Path, strength: float
) -> tuple[LoadedPrior, list[str]]:
    """Return the prior with a LoRA file on its transformer.

    Raise ValueError for a prior of one pass.
    """
    if prior.one_pass:
        raise ValueError(ONE_PASS.format("Load Prior LoRA"))
    patcher = prior.transformer.patcher
    patched, notes = apply_lora(patcher, path, strength, NETWORKS["prior"])
    return (prior if patched is patcher else prior.with_transformer(patched)), notes
