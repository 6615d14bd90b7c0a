"""A decoder on disk → ComfyUI's MODEL."""

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP
from diffusers import UNet2DConditionModel

from ..files.architectures import DECODERS
from ..files.decoder_configs import DecoderConfigs, read_decoder_configs
from ..files.headers import weight_files
from ..files.weights import check_config, fill_module, recognise
from .dtypes import compute_in, pick_dtypes, pick_ops
from .model import Kandinsky22
from .model_folders import models_of
from .model_options import CHANNELS_LAST
from .residents import move_stray_tensors
from .sampling import sampling_of
from .unet import Kandinsky22UNet

SAVED_PREFIX = "model.diffusion_model."  # ModelSave writes this before every name


def load_model(folder: Path, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """Load the MODEL of a decoder folder: a ModelPatcher that owns a `Kandinsky22`."""
    configs = read_decoder_configs(folder)
    path = folder / "unet" / "config.json"
    check_config(Kandinsky22UNet.from_config, UNet2DConditionModel, configs.unet, path)
    model = build_model(configs, weight_files(folder / "unet"), weight_dtype, disable_dynamic)
    # ComfyUI makes the model again with this, if it needs one without dynamic memory.
    model.cached_patcher_init = (load_model, (folder, weight_dtype))
    return model


def load_unet(file: Path, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """Load the MODEL of one file, whose UNet is a published one or that of a decoder folder.

    Raises:
        ValueError: the file is damaged, or fits none of them. The message says how the nearest
            differs.
    """
    known = known_decoders()
    candidates = [(title, configs.unet) for title, configs in known.items()]
    config = recognise(file, candidates, Kandinsky22UNet.from_config, SAVED_PREFIX)
    configs = next(configs for configs in known.values() if configs.unet is config)
    model = build_model(configs, [file], weight_dtype, disable_dynamic)
    model.cached_patcher_init = (load_unet, (file, weight_dtype))
    return model


def known_decoders() -> dict[str, DecoderConfigs]:
    """Return title → configs, of the decoder folders on disk and of the published decoders.

    A folder comes first, because it has its own scheduler and preview. A damaged folder is skipped.
    """
    known = {}
    for name, folder in models_of("decoder").items():
        try:
            configs = read_decoder_configs(folder)
            sampling_of(configs)
        except (OSError, ValueError):
            continue  # the loader of the folder reports the error
        known[name] = configs
    published = {
        f"the published {name}": DecoderConfigs(decoder.unet, decoder.scheduler)
        for name, decoder in DECODERS.items()
    }
    return known | published


def build_model(
    configs: DecoderConfigs, files: list[Path], weight_dtype: str, disable_dynamic: bool
) -> Any:
    """Return a ModelPatcher that owns a `Kandinsky22` with the weights of the files."""
    weights, compute = pick_dtypes(weight_dtype)
    ops = pick_ops(weights, compute)
    build = Kandinsky22UNet.from_config
    unet = fill_module(build, configs.unet, files, weights, ops, SAVED_PREFIX)
    compute_in(unet, compute)
    comfy.model_management.archive_model_dtypes(unet)
    patcher_class = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_class = comfy.model_patcher.ModelPatcher
    patcher = patcher_class(
        Kandinsky22(unet, configs, (weights, compute)),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    patcher.add_callback(CallbacksMP.ON_LOAD, lay_out_weights)
    return patcher


def lay_out_weights(patcher: Any, device: torch.device, *_) -> None:
    """On load, give convolution weights on the device the memory format that this MODEL needs.

    Weights that are kept elsewhere and streamed to the device are contiguous, as no others can be
    pinned.
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
