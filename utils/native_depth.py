"""A depth estimator in the host: a transformers model under its memory management."""

import comfy.model_management
import comfy.ops
import torch
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from . import checkpoints, hint
from .residency import Resident, pick_dtypes, swap_ops
from .tensors import images_to_model


class NativeDepthEstimator:
    """Any of transformers' depth-estimation models: DPT, Depth Anything, GLPN, …"""

    def __init__(self, name: str):
        folder = checkpoints.find_model(name, "depth")
        checkpoints.weight_files(folder)  # a clear error where there are none, or only pickles
        weights, compute = pick_dtypes("default")
        model = AutoModelForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=weights
        )
        swap_ops(model, comfy.ops.pick_operations(weights, compute))
        self.image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self.model = Resident(model.eval().requires_grad_(False), compute)

    def get_models(self):
        """The ModelPatchers behind this value, for the host's bookkeeping."""
        return [self.model.patcher]

    def estimate(self, image: torch.Tensor) -> torch.Tensor:
        """IMAGE (B, H, W, C) → depth IMAGE (B, H, W, 3), 1 is near."""
        module = self.model.load()
        maps = hint.estimate_depth(
            *(self.image_processor, module, images_to_model(image)),
            *(self.model.device, self.model.dtype),
        )
        maps = maps[..., None].expand(*maps.shape, 3).contiguous()
        return maps.to(comfy.model_management.intermediate_device())
