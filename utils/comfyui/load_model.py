"""A decoder on disk → the host's MODEL."""

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP

from ..files.architectures import UNETS
from ..files.headers import weight_files
from ..files.previews import read_preview
from ..files.weights import fill_module, recognise
from .model import Kandinsky22, Settings
from .model_folders import component_configs, find_model, read_json
from .residency import compute_in, move_stray_tensors, pick_dtypes, pick_ops
from .unet import CHANNELS_LAST, Kandinsky22UNet

SAVED_PREFIX = "model.diffusion_model."  # what ModelSave writes before every name


def read_settings(folder: Path) -> Settings:
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(path)
    if not {"beta_start", "beta_end"} <= set(scheduler):
        raise ValueError(f"{path} has no beta_start and beta_end. Download the folder again.")
    return Settings(read_json(folder / "unet" / "config.json"), scheduler, read_preview(folder))


def load_model(folder: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The MODEL of a decoder folder: a ModelPatcher that owns a `Kandinsky22`."""
    settings = read_settings(folder)
    model = build_model(settings, weight_files(folder / "unet"), weight_dtype, disable_dynamic)
    # How the host makes the model again where it needs one without dynamic memory.
    model.cached_patcher_init = (load_model, (folder, weight_dtype))
    return model


def load_unet(file: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The MODEL of one file: a published UNet's shapes, or those of a decoder folder on disk."""
    published = {f"the published {name}": Settings(**parts) for name, parts in UNETS.items()}
    candidates = component_configs("unet")  # first, for what else their folders know
    candidates += [(title, settings.unet) for title, settings in published.items()]
    config = recognise(file, candidates, Kandinsky22UNet.from_config, SAVED_PREFIX)
    title = next(title for title, candidate in candidates if candidate is config)
    settings = published.get(title) or read_settings(find_model(title, "decoder"))
    model = build_model(settings, [file], weight_dtype, disable_dynamic)
    model.cached_patcher_init = (load_unet, (file, weight_dtype))
    return model


def build_model(settings: Settings, files: list[Path], weight_dtype: str, disable_dynamic: bool):
    weights, compute = dtypes = pick_dtypes(weight_dtype)
    unet = fill_module(
        *(Kandinsky22UNet.from_config, settings.unet, files, weights),
        pick_ops(weights, compute),
        SAVED_PREFIX,
    )
    compute_in(unet, compute)
    comfy.model_management.archive_model_dtypes(unet)
    patcher_class = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_class = comfy.model_patcher.ModelPatcher
    patcher = patcher_class(
        Kandinsky22(unet, settings, dtypes),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    patcher.add_callback(CallbacksMP.ON_LOAD, lay_out_weights)
    return patcher


def lay_out_weights(patcher: Any, device: torch.device, *_) -> None:
    """On load: convolution weights on the device in the memory format that this MODEL wants.

    Those that are kept elsewhere and streamed in are contiguous: no others can be pinned.
    """
    if patcher.is_dynamic():
        return
    options = patcher.model_options["transformer_options"]
    wanted = options.get(CHANNELS_LAST) or comfy.model_management.force_channels_last()
    for layer in patcher.model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            here = layer.weight.device.type == device.type
            layout = torch.channels_last if wanted and here else torch.contiguous_format
            if not layer.weight.is_contiguous(memory_format=layout):
                weight = layer.weight.contiguous(memory_format=layout)
                layer.weight = torch.nn.Parameter(weight, requires_grad=False)
