"""All calls that run a model, small and ready, for tests of what holds for all of them.

Each takes pytest's `request.getfixturevalue`, and gives a Stage.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import comfy.model_management
import pytest
import torch
from helpers.decoding_stages import STAGES as DECODING
from helpers.decoding_stages import picture, run
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22.nodes.conditioning import Conditioning
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.embeds import EncodeImage
from kandinsky22.nodes.loaders import LoadDepthEstimator
from kandinsky22.nodes.prior import PriorEmb2Emb, SamplePrior

import nodes as host


class Stage(NamedTuple):
    """A call that runs the module of a ModelPatcher, and the tensors that go into it."""

    patcher: Any
    module: torch.nn.Module
    inputs: list[torch.Tensor]
    run: Callable[[], torch.Tensor]


def latent() -> dict[str, torch.Tensor]:
    return {"samples": torch.linspace(-1, 1, 256).view(1, 4, 8, 8)}


def decode(node, fixture) -> Stage:
    name, widgets = DECODING[node]
    model, canvas = fixture("load_decoder")(name)[0], latent()
    positive, negative = (fixture("embeds")(1, seed) for seed in (1, 2))
    inputs = [positive.tensor, negative.tensor, canvas["samples"]]
    inputs += [value for value in widgets.values() if torch.is_tensor(value)]
    return Stage(
        model,
        model.model.diffusion_model,
        inputs,
        lambda: run(node, model, positive, negative, canvas, **widgets),
    )


def ksampler(fixture) -> Stage:
    model, canvas = fixture("load_decoder")(TEXT_TO_IMAGE)[0], latent()
    pair = [Conditioning.execute(fixture("embeds")(1, seed)).args[0] for seed in (1, 2)]
    inputs = [canvas["samples"], *(conditioning[0][0] for conditioning in pair)]
    settings = (7, 5, 4.0, "euler", "normal", *pair, canvas)
    return Stage(
        model,
        model.model.diffusion_model,
        inputs,
        lambda: host.KSampler().sample(model, *settings)[0]["samples"],
    )


def sample_prior(fixture) -> Stage:
    prior = fixture("prior")
    patcher = prior.transformer.patcher
    return Stage(
        patcher,
        patcher.model.module,
        [],
        lambda: SamplePrior.execute(prior, "a cat", "a dog", 7, 5, 4.0, 1).args[0].tensor,
    )


def emb2emb(fixture) -> Stage:
    prior, start = fixture("prior"), fixture("embeds")()
    patcher = prior.transformer.patcher
    return Stage(
        patcher,
        patcher.model.module,
        [start.tensor],
        lambda: PriorEmb2Emb.execute(prior, start, "a cat", "", 0.8, 7, 6, 4.0).args[0].tensor,
    )


def encode_image(fixture) -> Stage:
    prior, image = fixture("prior"), picture()
    patcher = prior.image_encoder.patcher
    return Stage(
        patcher,
        patcher.model.module,
        [image],
        lambda: EncodeImage.execute(prior, image).args[0].tensor,
    )


def encode_text(fixture) -> Stage:
    prior = fixture("prior")
    patcher = prior.text_encoder.patcher
    return Stage(
        patcher,
        patcher.model.module,
        [],
        lambda: prior.encode_prompts("a cat", "a dog", 1, guided=True).states,
    )


def movq(verb: str, fixture) -> Stage:
    patcher = fixture("load_decoder")(TEXT_TO_IMAGE)[1].patcher
    x = picture().movedim(-1, 1) * 2 - 1 if verb == "encode" else latent()["samples"]

    def call() -> torch.Tensor:  # ComfyUI's VAE does this, and would try again in tiles
        comfy.model_management.load_models_gpu([patcher])
        return getattr(patcher.model, verb)(x)

    return Stage(patcher, patcher.model, [x], call)


def depth_hint(fixture) -> Stage:
    fixture("models")
    estimator, image = LoadDepthEstimator.execute("tiny-dpt").args[0], picture()
    patcher = estimator.model.patcher
    return Stage(
        patcher,
        patcher.model.module,
        [image],
        lambda: DepthHint.execute(estimator, image).args[0],
    )


IN_STEPS = {
    **{node.__name__: partial(decode, node) for node in DECODING},
    "KSampler": ksampler,
    "SamplePrior": sample_prior,
    "PriorEmb2Emb": emb2emb,
}
AT_ONCE = {
    "EncodeImage": encode_image,
    "text": encode_text,
    "MoVQ encode": partial(movq, "encode"),
    "MoVQ decode": partial(movq, "decode"),
    "DepthHint": depth_hint,
}


def each(stages: dict[str, Callable]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("build", stages.values(), ids=stages)
