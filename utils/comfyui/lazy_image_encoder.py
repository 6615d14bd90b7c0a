"""A prior's image encoder, which is built when it is first needed.

It is the largest part of a prior. Text-to-image reads only one vector of it, which is kept.
"""

import os
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig

from ..files.architectures import ORGANISATION, PRIOR_FOLDER
from ..files.configs import naming, read_config
from ..files.headers import weight_files
from ..files.model_kinds import prior_part
from ..files.zero_embeds import keep_zero_embeds, read_zero_embeds
from ..kandinsky.image_embeds import ImageEmbeds
from .clip import ImageEncoder
from .dtypes import pick_clip_dtypes
from .model_folders import may_be_written


def read_processor(path: Path, size: int) -> Any:
    """Read the image processor of a preprocessor_config.json, and try it on a picture.

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged, or makes pictures of another size
            than `size`.
    """
    settings = read_config(path)
    with naming(path):
        processor: Any = CLIPImageProcessor.from_dict(settings)
        values = processor(Image.new("RGB", (8, 8)), return_tensors="pt").pixel_values
        if values.shape != (1, 3, size, size):
            raise ValueError(f"it makes {tuple(values.shape)}, and the encoder takes {size}")
        if not torch.isfinite(values).all():
            raise ValueError("it makes NaN or infinity of a black picture")
    return processor


class LazyImageEncoder:
    """The image encoder of a prior's folder, or the error message for a folder without one."""

    def __init__(self, folder: Path, weight_dtype: str):
        """Read the configs, and look whether there are weights.

        Raises:
            FileNotFoundError, ValueError: a part of an existing encoder is missing or damaged.
        """
        self.folder, self.weight_dtype = folder, weight_dtype
        self.part = prior_part(folder, "image_encoder")
        self.config: Any = None
        self.built: ImageEncoder | None = None
        self._zero_embeds: ImageEmbeds | None = None
        if os.path.isdir(self.part):
            path = self.part / "config.json"
            config = read_config(path, CLIPVisionConfig)
            with naming(path):
                self.config = CLIPVisionConfig.from_dict(config)
            processor = prior_part(folder, "image_processor") / "preprocessor_config.json"
            self.processor = read_processor(processor, self.config.image_size)
            weight_files(self.part)

    def get_models(self) -> list[Any]:
        """Return its ModelPatcher, if it has been needed so far."""
        return [self.built.patcher] if self.built else []

    def get(self, need: str) -> ImageEncoder:
        """Return the encoder.

        Raises:
            FileNotFoundError: there is none. `need` names what needs it.
        """
        if self.built is None:
            self._check_there(need)
            self.built = ImageEncoder(self.part, self.weight_dtype, self.processor)
        return self.built

    def zero_embeds(self, need: str) -> ImageEmbeds:
        """Return the embedding of zeros, (1, D).

        It is computed once, and read from a file after that.
        """
        if self._zero_embeds is None:
            self._check_there(need)
            how = self._how_it_computes()
            kept = read_zero_embeds(self.part, how, self.config.projection_dim)
            self._zero_embeds = kept or ImageEmbeds(self.get(need).encode_zero_image())
            if kept is None and may_be_written(self.part):
                keep_zero_embeds(self.part, how, self._zero_embeds)
        return self._zero_embeds

    def _how_it_computes(self) -> str:
        device = comfy.model_management.text_encoder_device()
        weights, compute = pick_clip_dtypes(self.weight_dtype, device)
        return f"{weights}, {compute}, {device.type}, torch {torch.__version__}"

    def _check_there(self, need: str) -> None:
        if self.config is None:
            raise FileNotFoundError(
                f"{need} needs the prior's image encoder, and {self.folder} has none. Fetch the "
                f"folders image_encoder and image_processor of {ORGANISATION}/{PRIOR_FOLDER} into "
                "it. Without them, Prior works with a negative prompt."
            )
