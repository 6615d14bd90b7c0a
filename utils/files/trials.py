"""Run a module without memory, to see whether a config with odd values works."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel, VQModel

from ..kandinsky.prior import TextFeatures
from ..kandinsky.prior_networks import PriorNetwork


def run_unet(unet: Any) -> None:
    config = unet.config
    channels, width = config.in_channels, config.encoder_hid_dim
    is_depth = config.addition_embed_type == "image_hint"
    embeds = torch.empty(1, width)
    added: dict[str, Any] = {"image_embeds": embeds}
    if is_depth:
        added["hint"] = torch.empty(1, 3, 256, 256)
        channels -= 4
    if hasattr(unet, "condition"):  # the UNet of `utils/comfyui` reads them before its forward
        added = {"conditions": unet.condition(embeds[:, None], added.get("hint"))}
    sample = torch.empty(1, channels, 32, 32)
    forward: Any = UNet2DConditionModel.forward
    forward(unet, sample, torch.empty(1), None, added_cond_kwargs=added)


def run_movq(movq: Any) -> None:
    latents = VQModel.encode(movq, torch.empty(1, 3, 64, 64)).latents
    VQModel.decode(movq, latents, force_not_quantize=True)


def run_prior(transformer: Any) -> None:
    config = transformer.config
    width, tokens = config.embedding_dim, config.num_embeddings
    embeds, states = torch.empty(2, width), torch.empty(2, tokens, width)
    text = TextFeatures(embeds, states, torch.ones(2, tokens, dtype=torch.bool))
    # A prior of one pass has no timesteps.
    time = [torch.tensor(1)] if hasattr(transformer, "time_embedding") else []
    transformer(embeds, *time, transformer.read(text))


def run_clip(encoder: Any) -> None:
    config = encoder.config
    if hasattr(config, "vocab_size"):
        encoder(torch.zeros(1, config.max_position_embeddings, dtype=torch.long))
    else:
        encoder(torch.empty(1, 3, config.image_size, config.image_size))


TRIALS: tuple[tuple[type, Callable[[Any], None]], ...] = (
    (UNet2DConditionModel, run_unet),
    (VQModel, run_movq),
    (PriorNetwork, run_prior),
    (torch.nn.Module, run_clip),
)


def try_run(module: Any) -> None:
    """Run a copy of a module on tensors that have shapes and no memory.

    Raises:
        Exception: any error that diffusers and transformers raise for a config that does not work.
    """
    run = next(run for known, run in TRIALS if isinstance(module, known))
    with torch.device("meta"), torch.no_grad():
        run(copy.deepcopy(module).to("meta").eval())
