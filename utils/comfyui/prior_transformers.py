"""The transformer of a prior alone, by the names that Load Prior Transformer lists.

Its encoders come from another prior, or are ComfyUI's own CLIP and CLIP Vision.
"""

from pathlib import Path
from typing import Any

from diffusers import PriorTransformer

from ..files import architectures
from ..files.configs import read_config
from ..files.model_kinds import transformer_folder
from ..files.weights import fill_module, recognise
from ..kandinsky.prior_networks import PriorNetwork
from . import model_folders
from .clip_text import ComfyTextEncoder
from .clip_vision import ComfyImageEncoder
from .dtypes import pick_dtypes, pick_ops
from .load_prior import is_one_pass, load_network
from .prior import LoadedPrior
from .prior_names import KIND
from .residents import Resident


def known_configs() -> list[tuple[str, dict[str, Any]]]:
    """Return (title, config) of the published prior and of those in folders on this computer."""
    known = [("the published prior", architectures.PRIOR["prior"])]
    for name, folder in model_folders.models_of(KIND).items():
        place = transformer_folder(folder) or folder
        try:
            known.append((name, read_config(place / "config.json", PriorTransformer)))
        except (OSError, ValueError):
            continue  # damaged; its own loader reports the error
    return known


def load_file(file: Path, weight_dtype: str) -> Resident:
    """Load a single file. Raise ValueError if it is damaged or not a transformer of many steps."""
    if is_one_pass([file]):
        raise ValueError(
            f"{file} is a prior of one pass, and does not say how many heads its attention has. "
            "Put it with its config.json into a folder of its own under models/diffusers."
        )
    weights, compute = pick_dtypes(weight_dtype)
    build = PriorNetwork.build
    config = recognise(file, known_configs(), build)
    return Resident(
        fill_module(build, config, [file], weights, pick_ops(weights, compute)), compute
    )


def load_transformer(
    source: Path, weight_dtype: str, prior: LoadedPrior | None, clip: Any, clip_vision: Any
) -> LoadedPrior:
    """Return a prior with a transformer. Its encoders are those of `prior` where no other is given.

    Args:
        clip, clip_vision: ComfyUI's, or None.

    Raises:
        FileNotFoundError, ValueError: the transformer cannot be read, or an encoder is missing or
            does not fit it.
    """
    load = load_network if source.is_dir() else load_file
    transformer = load(source, weight_dtype)
    config: Any = transformer.patcher.model.module.config
    width, length = config.embedding_dim, config.num_embeddings
    if prior is not None:
        lent = prior.config.embedding_dim, prior.config.num_embeddings
        if lent != (width, length):
            raise ValueError(
                f"The prior that is connected is {lent[0]} wide with {lent[1]} tokens, and "
                f"{source.name} is {width} wide with {length}. Connect one of its own family."
            )
    if clip is not None:
        text: Any = ComfyTextEncoder(clip, width, length)
    elif prior is not None:
        text = prior.text_encoder
    else:
        raise ValueError("A transformer reads no words. Connect a prior, or a CLIP with bigG.")
    images: Any = ComfyImageEncoder(clip_vision, width)
    if clip_vision is None and prior is not None:
        images = prior.images
    scheduler = prior.scheduler_config if prior else architectures.PRIOR["scheduler"]
    return LoadedPrior(transformer, text, images, scheduler)
