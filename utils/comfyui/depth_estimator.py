"""A depth estimator in the host: a transformers model under its memory management."""

from typing import Any

import comfy.model_management
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

from ..files.headers import weight_files
from ..kandinsky import depth
from ..kandinsky.tensors import images_to_model
from . import model_folders
from .residency import Owner, Resident, pick_dtypes, pick_ops, swap_ops


class NativeDepthEstimator(Owner):
    """Any of transformers' depth-estimation models: DPT, Depth Anything, GLPN, …"""

    def __init__(self, name: str):
        folder = model_folders.find_model(name, "depth")
        weight_files(folder)  # a clear error where there are none, or only pickles
        weights, compute = pick_dtypes("default")
        model_folders.read_json(folder / "preprocessor_config.json")
        local = dict(local_files_only=True, trust_remote_code=False)
        try:
            config = AutoConfig.from_pretrained(folder, **local)
            config.use_pretrained_backbone = False  # the weights are here; it would fetch others
            model, loading = AutoModelForDepthEstimation.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **local,
            )
            self.image_processor = AutoImageProcessor.from_pretrained(folder, **local)
        except torch.OutOfMemoryError:
            raise  # the host has its own words for it
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
        model.to(weights)  # afterwards: transformers has named this argument in two ways
        swap_ops(model, pick_ops(weights, compute))
        for layer in model.modules():
            if not hasattr(layer, "comfy_cast_weights"):  # it may mind another type: BatchNorm does
                for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                    tensor.data = tensor.to(compute) if tensor.is_floating_point() else tensor
        self.model = Resident(model.eval().requires_grad_(False), compute)

    def get_models(self) -> list[Any]:
        return [self.model.patcher]

    def estimate(self, image: torch.Tensor) -> torch.Tensor:
        """IMAGE (B, H, W, C) → depth IMAGE (B, H, W, 3), 1 is near."""
        module = self.model.load()
        maps = depth.estimate_depth(
            *(self.image_processor, module, images_to_model(image)),
            *(self.model.device, self.model.dtype),
        )
        maps = maps[..., None].expand(*maps.shape, 3).contiguous()
        return maps.to(comfy.model_management.intermediate_device())
