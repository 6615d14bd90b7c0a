"""ComfyUI sees which models a value holds, and frees them when the value is dropped."""

import asyncio
import gc
import weakref

import comfy.cli_args
import comfy.model_management
import pytest
import torch
from comfy_execution import caching
from comfy_execution.caching import CacheKeySetID, RAMPressureCache
from comfy_execution.graph import DynamicPrompt
from execution import CacheEntry
from helpers.tiny_models import DEPTH, PRIOR
from kandinsky22 import nodes as stages
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.nodes.prior import SamplePrior

pytestmark = pytest.mark.usefixtures("nothing_shared")


def work() -> list[weakref.ref]:
    """Load everything, use it, and return weak references to all values and modules."""
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    model, vae = LoadDecoder.execute(DEPTH, "default").args
    estimator = LoadDepthEstimator.execute("tiny-dpt").args[0]
    positive, negative = SamplePrior.execute(prior, "a cat", "a dog", 0, 2, 4.0, 1).args
    picture = torch.rand(1, 64, 64, 3)
    more = prior.encode_image(picture)
    hint = DepthHint.execute(estimator, picture).args[0]
    settings = dict(seed=0, steps=2, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
    latent = {"samples": vae.encode(picture)}
    latent = stages.ControlNet.execute(
        model, positive, latent, hint, negative_image_embeds=negative, **settings
    ).args[0]
    vae.decode(latent["samples"])
    patchers = [model, vae.patcher, *prior.get_models(), *estimator.get_models()]
    values = [prior, vae, estimator, positive, negative, more, *patchers]
    modules = [module for patcher in patchers for module in patcher.model.modules()]
    tensors = [tensor for patcher in patchers for tensor in patcher.model.parameters()]
    return [weakref.ref(each) for each in (*values, *modules, *tensors)]


def test_what_is_dropped_is_freed(models):
    """They are freed at once.

    There are no reference cycles, which would need the garbage collector.
    """
    gc.disable()
    try:
        references = work()
        comfy.model_management.unload_all_models()
        comfy.model_management.cleanup_models()
        assert not [reference() for reference in references if reference() is not None]
    finally:
        gc.enable()


def load_prior():
    return LoadPrior.execute(PRIOR, "default").args[0]


def load_depth_estimator():
    return LoadDepthEstimator.execute("tiny-dpt").args[0]


def test_values_name_their_models(models):
    prior = load_prior()
    parts = (prior.transformer, prior.text_encoder, prior.image_encoder)
    assert prior.get_models() == [part.patcher for part in parts]
    estimator = load_depth_estimator()
    assert estimator.get_models() == [estimator.model.patcher]


@pytest.mark.skipif(
    not hasattr(caching, "is_model_patcher_output"),
    reason="this host's cache knows ModelPatchers only, or no models at all",
)
@pytest.mark.parametrize("load", [load_prior, load_depth_estimator])
def test_old_models_are_the_first_to_leave_the_cache(models, load):
    """When memory is short, they leave before the pictures of the same old workflow."""
    values = {"model": load(), "picture": torch.zeros(1, 64, 64, 3), "number": 1}
    cache = RAMPressureCache(CacheKeySetID)

    async def run_two_workflows() -> None:
        old = {key: {"class_type": key} for key in values}
        await cache.set_prompt(DynamicPrompt(old), list(old), None)
        for key, value in values.items():
            await cache.set(key, CacheEntry(ui={}, outputs=[[value]]))
        await cache.set_prompt(DynamicPrompt({"new": {"class_type": "new"}}), ["new"], None)

    asyncio.run(run_two_workflows())
    gone: list[str] = []
    for key in ("model", "picture"):
        weakref.finalize(values.pop(key), gone.append, key)
    cache.ram_release(1e30)
    gc.collect()
    assert gone == ["model", "picture"]


def test_values_are_as_dynamic_as_their_models(models):
    """ComfyUI keeps what the running workflow needs, if it can take memory back in parts."""
    for value in (load_prior(), load_depth_estimator()):
        assert value.is_dynamic() == all(model.is_dynamic() for model in value.get_models())
