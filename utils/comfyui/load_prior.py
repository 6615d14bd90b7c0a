"""A prior on disk → the value on the wire."""

from pathlib import Path
from typing import Any

import torch
from diffusers import PriorTransformer, UnCLIPScheduler

from ..files.configs import naming, read_config
from ..files.headers import tensor_names, weight_files
from ..files.model_kinds import prior_part
from ..files.weights import build_module
from ..kandinsky.prior_networks import OnePassPrior, PriorNetwork
from .clip import TextEncoder
from .dtypes import pick_dtypes, pick_ops
from .lazy_image_encoder import LazyImageEncoder
from .prior import LoadedPrior
from .residents import Resident


def load_prior(folder: Path, weight_dtype: str = "default") -> LoadedPrior:
    """Load the prior of a folder.

    Raises:
        FileNotFoundError, ValueError: a part of `folder` is missing, damaged, or does not fit its
            config.
    """
    network = load_network(prior_part(folder, "prior"), weight_dtype)
    config: Any = network.patcher.model.module.config
    text_encoder = TextEncoder(folder, weight_dtype)
    images = LazyImageEncoder(folder, weight_dtype)
    scheduler = read_scheduler_config(prior_part(folder, "scheduler"))
    check_parts_fit(folder, config, text_encoder.config, images.config)
    return LoadedPrior(network, text_encoder, images, scheduler)


def is_one_pass(files: list[Path]) -> bool:
    """Return whether a transformer has no timesteps, by the names of its tensors."""
    names = set[str]().union(*map(tensor_names, files))
    return not any(name.startswith("time_embedding.") for name in names)


def load_network(folder: Path, weight_dtype: str) -> Resident:
    """Load a prior's transformer, of one pass or of many.

    Raises:
        FileNotFoundError, ValueError: the folder is damaged, or does not hold a prior's
            transformer.
    """
    weights, compute = pick_dtypes(weight_dtype)
    build: Any = PriorNetwork.build
    if is_one_pass(weight_files(folder)):
        build = OnePassPrior.build
    network = build_module(build, PriorTransformer, folder, weights, pick_ops(weights, compute))
    return Resident(network, compute)


def read_scheduler_config(folder: Path) -> dict[str, Any]:
    """Read a prior's scheduler config, and try a step of that scheduler.

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged, or not a config of UnCLIPScheduler.
    """
    path = folder / "scheduler_config.json"
    config = read_config(path, UnCLIPScheduler)
    with naming(path):
        scheduler: Any = UnCLIPScheduler.from_config(config)
        scheduler.set_timesteps(2)
        noise = torch.Generator()  # its own generator, so that no other random numbers change
        zeros = torch.zeros(1, 2)
        scheduler.step(zeros, scheduler.timesteps[0], zeros, generator=noise)
    return config


def check_parts_fit(folder: Path, prior: Any, text: Any, image: Any) -> None:
    """Raise ValueError where the parts of a folder come from different models.

    Args:
        prior, text, image: their configs. image is None if there is no image encoder.
    """
    width, tokens = prior.embedding_dim, prior.num_embeddings
    for what, found, wanted in (
        ("text_encoder's projection_dim", text.projection_dim, width),
        ("text_encoder's hidden_size", text.hidden_size, width),
        ("text_encoder's max_position_embeddings", text.max_position_embeddings, tokens),
        ("image_encoder's projection_dim", image.projection_dim if image else width, width),
    ):
        if found != wanted:
            raise ValueError(
                f"The parts in {folder} are of different models: the {what} is {found}, and "
                f"the prior wants {wanted}. Download the folder again."
            )
