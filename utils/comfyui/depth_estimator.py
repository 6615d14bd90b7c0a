"""A depth estimator in ComfyUI: a model of transformers whose memory ComfyUI manages."""

from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_DEPTH_ESTIMATION_MAPPING, AutoImageProcessor

from ..files.configs import naming, read_config
from ..files.headers import open_tensors, weight_files
from ..files.layers import swap_layers
from ..kandinsky.depth import check_picture_size, estimate_depth, is_in_metres
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
        self.folder = folder
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
        images = images_to_model(image)
        check_picture_size(images)
        module, device, dtype = self.model.load(), self.model.device, self.model.dtype
        with naming(self.folder):  # sizes in its two configs may contradict one another
            in_metres = is_in_metres(module.config)
            maps = estimate_depth(self.image_processor, module, images, device, dtype, in_metres)
        maps = maps[..., None].expand(*maps.shape, 3).contiguous()
        return maps.to(comfy.model_management.intermediate_device())


def read_with_transformers(folder: Path) -> tuple[Any, Any]:
    """(the model, its image processor) of a folder.

    Both are made of checked configs and the tensors themselves, so transformers never reads the
    folder's other files: an adapter beside the weights, say, would lead it to the network.
    """
    files = weight_files(folder)
    settings = read_config(folder / "preprocessor_config.json")
    config_path = folder / "config.json"
    config = read_config(config_path)
    with naming(config_path):
        config = CONFIG_MAPPING[config["model_type"]].from_dict(config)
        config.use_pretrained_backbone = False  # the weights are here; it would fetch others
    state: dict[str, torch.Tensor] = {}
    for file in files:
        with open_tensors(file) as tensors:
            state |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    with naming(folder):
        model_class: Any = MODEL_FOR_DEPTH_ESTIMATION_MAPPING[type(config)]
        model, loading = model_class.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
        found = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        image_processor = type(found).from_dict(settings)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"The depth estimator in {folder} lacks {len(missing)} weights, {missing[0]} among "
            "them. Download it again."
        )
    return model, image_processor
