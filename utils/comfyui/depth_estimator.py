"""A depth estimator in ComfyUI: a model of transformers whose memory ComfyUI manages."""

from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

from ..files.configs import read_json
from ..files.headers import weight_files
from ..files.layers import swap_layers
from ..kandinsky.depth import estimate_depth
from ..kandinsky.images import images_to_model
from .dtypes import pick_dtypes, pick_ops
from .residents import Owner, Resident


class LoadedDepthEstimator(Owner):
    """Any of transformers' depth-estimation models: DPT, Depth Anything, GLPN, …"""

    def __init__(self, folder: Path):
        """
        Raises:
            FileNotFoundError, ValueError: a part of `folder` is missing or damaged.
        """
        weights, compute = pick_dtypes("default")
        model, self.image_processor = read_with_transformers(folder)
        model.to(weights)  # afterwards: transformers has named this argument in two ways
        swap_layers(model, pick_ops(weights, compute))
        for layer in model.modules():
            # Layers of torch's own may not take another dtype than they compute in: BatchNorm.
            if not hasattr(layer, "comfy_cast_weights"):
                for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                    tensor.data = tensor.to(compute) if tensor.is_floating_point() else tensor
        self.model = Resident(model.eval().requires_grad_(False), compute)

    def get_models(self) -> list[Any]:
        return [self.model.patcher]

    def estimate(self, image: Any) -> torch.Tensor:
        """IMAGE (B, H, W, C) → depth IMAGE (B, H, W, 3), 1 is near.

        Raises:
            ValueError: it is no IMAGE, or one too small to see depth in.
        """
        images, module = images_to_model(image), self.model.load()
        device, dtype = self.model.device, self.model.dtype
        maps = estimate_depth(self.image_processor, module, images, device, dtype)
        maps = maps[..., None].expand(*maps.shape, 3).contiguous()
        return maps.to(comfy.model_management.intermediate_device())


def read_with_transformers(folder: Path) -> tuple[Any, Any]:
    """(the model, its image processor) of a folder."""
    weight_files(folder)  # a clear error where there are none, or only pickles
    read_json(folder / "preprocessor_config.json")
    local = dict(local_files_only=True, trust_remote_code=False)
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        config.use_pretrained_backbone = False  # the weights are here; it would fetch others
        model, loading = AutoModelForDepthEstimation.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, **local
        )
        image_processor = AutoImageProcessor.from_pretrained(folder, **local)
    except torch.OutOfMemoryError:
        raise  # ComfyUI has its own words for it
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"The depth estimator in {folder} cannot be loaded: {error}. Download it again."
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"The depth estimator in {folder} lacks {len(missing)} weights, {missing[0]} among "
            "them. Download it again."
        )
    return model, image_processor
