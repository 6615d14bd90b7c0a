"""A depth estimator in ComfyUI: a model of transformers whose memory ComfyUI manages."""

import re
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_DEPTH_ESTIMATION_MAPPING, AutoImageProcessor

from ..files.configs import naming, read_config
from ..files.headers import open_tensors, weight_files
from ..files.layers import swap_layers
from ..files.weights import build_empty
from ..kandinsky.depth import check_picture_size, estimate_depth, is_in_metres
from ..kandinsky.images import images_to_model
from .dtypes import pick_dtypes, pick_ops
from .residents import Owner, Resident

# DPT's published files do not have this layer, which no forward uses.
UNUSED = re.compile(r"fusion_stage\.layers\.0\.residual_layer1\.")
PROCESSORS = ("DPT", "GLPN", "ZoeDepth", "DepthPro", "PromptDepthAnything", "CHMv2", "Tipsv2Dpt")
MOST_MISSING = 2  # how many times larger than its file a model may be


# Numbers in memory at the peak of a forward. The first is for each pixel of the model's input, and
# the second for each of these pixels and each channel of its decoder. `python
# tools/measure_memory.py glpn dpt-large …` measures them.
PIXELS = {"depth_anything": (35, 1.06), "glpn": (5, 3.2), "dpt": (81, 1.06)}


def memory_needed(config: Any, values: torch.Tensor, dtype: torch.dtype) -> int:
    """Return the bytes that a picture of `values` (N, 3, h, w) needs at the peak of a forward.

    Other families were not measured, and count as DPT.
    """
    pixels = values.shape[-2] * values.shape[-1]
    channels = getattr(config, "fusion_hidden_size", getattr(config, "decoder_hidden_size", 256))
    base, each = PIXELS.get(config.model_type, PIXELS["dpt"])
    numbers = (base + each * channels) * pixels
    if not comfy.model_management.pytorch_attention_flash_attention():
        numbers += scores(config, pixels)
    return int(numbers * dtype.itemsize)


def scores(config: Any, pixels: int) -> int:
    """Return how many numbers the scores of an attention take in memory."""
    vit = getattr(config, "backbone_config", None) or config
    heads, patch = getattr(vit, "num_attention_heads", 0), getattr(vit, "patch_size", 16)
    if not isinstance(heads, int) or not isinstance(patch, int):
        return 0  # GLPN has few keys, and its decoder's peak is higher
    return 2 * heads * (pixels // patch**2 + 1) ** 2


class LoadedDepthEstimator(Owner):
    """A depth-estimation model of transformers: DPT, Depth Anything, GLPN, …"""

    def __init__(self, folder: Path):
        """Read the model of a folder.

        Raises:
            FileNotFoundError, ValueError: a part of `folder` is missing or damaged.
        """
        self.folder = folder
        weights, compute = pick_dtypes("default")
        model, self.image_processor = read_with_transformers(folder)
        # Not at load, because versions of transformers name that argument differently.
        model.to(weights)
        swap_layers(model, pick_ops(weights, compute))
        for layer in model.modules():
            # Layers of torch's own, such as BatchNorm, must have the dtype that they compute in.
            if not hasattr(layer, "comfy_cast_weights"):
                for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                    tensor.data = tensor.to(compute) if tensor.is_floating_point() else tensor
        self.model = Resident(model.eval().requires_grad_(False), compute)

    def get_models(self) -> list[Any]:
        return [self.model.patcher]

    def estimate(self, image: Any) -> torch.Tensor:
        """Return a depth IMAGE (B, H, W, 3), in which 1 is near, for an IMAGE (B, H, W, C).

        Raises:
            ValueError: the input is not an IMAGE, or is too small for a depth map.
        """
        images = images_to_model(image)
        check_picture_size(images)
        height, width = images.shape[-2:]

        def at_once(values: torch.Tensor) -> int:
            memory = memory_needed(module.config, values, self.model.dtype) + 8 * height * width
            return self.model.load_for(len(values), memory)[1]

        module, device, dtype = self.model.module, self.model.device, self.model.dtype
        with naming(self.folder):  # sizes in its two configs may contradict each other
            in_metres = is_in_metres(module.config)
            maps = estimate_depth(
                self.image_processor, module, images, device, dtype, in_metres, at_once
            )
        maps = maps[..., None].expand(*maps.shape, 3).contiguous()
        return maps.to(comfy.model_management.intermediate_device())


def read_with_transformers(folder: Path) -> tuple[Any, Any]:
    """Return the model and the image processor of a folder.

    Both are made from checked configs and from the tensors alone. So transformers never reads the
    folder's other files. For example, an adapter beside the weights would make it use the network.
    """
    files = weight_files(folder)
    settings = read_config(folder / "preprocessor_config.json")
    check_processor(settings, folder / "preprocessor_config.json")
    config_path = folder / "config.json"
    config = read_config(config_path)
    with naming(config_path):
        config = CONFIG_MAPPING[config["model_type"]].from_dict(config)
        model_class: Any = MODEL_FOR_DEPTH_ESTIMATION_MAPPING[type(config)]
    state: dict[str, torch.Tensor] = {}
    for file in files:
        with open_tensors(file) as tensors:
            state |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    check_sizes(build_empty(model_class, config, config_path), state, folder)
    # transformers draws random numbers for missing tensors. The random numbers of other code must
    # not change by that.
    with naming(folder), torch.random.fork_rng(devices=[]):
        model, loading = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        found = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        image_processor = type(found).from_dict(settings)
    missing = sorted(name for name in loading["missing_keys"] if not UNUSED.search(name))
    misshapen = sorted(map(str, loading["mismatched_keys"]))
    for names, what in ((missing, "lacks"), (misshapen, "has in other shapes")):
        if names:
            raise ValueError(
                f"The depth estimator in {folder} {what} {len(names)} weights, {names[0]} among "
                "them. Download it again."
            )
    return model, image_processor


def check_processor(settings: dict[str, Any], path: Path) -> None:
    """Raise ValueError for an image processor of another task, as some of those download files."""
    for key in ("image_processor_type", "feature_extractor_type"):
        name = settings.get(key)
        if name is not None and not str(name).startswith(PROCESSORS):
            raise ValueError(
                f"{path} names {name!r:.60} as its {key}, which is not a depth estimator's; those "
                f"begin with {', '.join(PROCESSORS)}. Download the folder again."
            )


def check_sizes(empty: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Raise ValueError if a model is far larger than its file.

    transformers would fill memory with the missing tensors.
    """
    wanted = sum(parameter.numel() for parameter in empty.parameters())
    stored = sum(tensor.numel() for tensor in state.values())
    if wanted > MOST_MISSING * stored:
        raise ValueError(
            f"The config.json in {folder} wants a model of {wanted} numbers, and its file lacks "
            f"most of them: it has {stored}. Download it again."
        )
