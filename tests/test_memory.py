"""The host's memory management and our modules: where tensors are, what is freed, what it sees."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.cli_args
import comfy.model_management
import pytest
import torch
from comfy_execution import caching
from comfy_execution.caching import CacheKeySetID, RAMPressureCache
from comfy_execution.graph import DynamicPrompt
from execution import CacheEntry
from kandinsky22.nodes import decoder as stages
from kandinsky22.nodes.hint import DepthHint
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.nodes.prior import SamplePrior
from kandinsky22.utils.comfyui.depth_estimator import NativeDepthEstimator
from kandinsky22.utils.comfyui.prior import NativePrior

pytestmark = pytest.mark.usefixtures("nothing_shared")

# No hardware is needed to see where tensors go: what is left on one of the two is on the other.
CPU, META = torch.device("cpu"), torch.device("meta")
PRIOR, DECODER = "kandinsky-2-2-tiny-prior", "kandinsky-2-2-tiny-controlnet-depth"
DEPTH = ["tiny-glpn", "tiny-dpt", "tiny-depth-anything"]
ALL = 1e32


class Part(NamedTuple):
    """A module that is freshly loaded, and a call of it."""

    patcher: Any
    run: Callable[[], torch.Tensor]

    def share(self, fraction: float) -> float:
        """So many bytes of its weights; 0 is unlimited in the host's words."""
        return max(0.1, fraction * self.patcher.model_size())


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def load_unet() -> Part:
    patcher = LoadDecoder.execute(DECODER, "default").args[0]
    unet = patcher.model.diffusion_model
    inputs = (random(2, 4, 8, 8), torch.tensor([5.0, 5.0]), random(2, 1, 24))
    return Part(patcher, lambda: unet(*inputs, hint=random(2, 3, 64, 64)))


def load_movq() -> Part:
    patcher = LoadDecoder.execute(DECODER, "default").args[1].patcher
    movq = patcher.model
    return Part(patcher, lambda: movq.decode(movq.encode(random(1, 3, 64, 64))))


def load_transformer() -> Part:
    patcher = LoadPrior.execute(PRIOR, "default").args[0].transformer.patcher
    inputs = (random(2, 24), 5, random(2, 24), random(2, 77, 24), torch.ones(2, 77).bool())
    module = patcher.model.module
    return Part(patcher, lambda: module(*inputs).predicted_image_embedding)


def load_text_encoder() -> Part:
    patcher = LoadPrior.execute(PRIOR, "default").args[0].text_encoder.patcher
    module, tokens = patcher.model.module, torch.arange(77)[None]
    return Part(patcher, lambda: module(tokens).text_embeds)


def load_image_encoder() -> Part:
    patcher = LoadPrior.execute(PRIOR, "default").args[0].image_encoder.patcher
    module = patcher.model.module
    return Part(patcher, lambda: module(random(1, 3, 64, 64)).image_embeds)


def load_depth(name: str) -> Part:
    estimator = LoadDepthEstimator.execute(name).args[0]
    module, size = estimator.model.patcher.model.module, 28 if "anything" in name else 32
    return Part(estimator.model.patcher, lambda: module(random(1, 3, size, size)).predicted_depth)


PARTS: dict[str, Callable[[], Part]] = {
    "unet": load_unet,
    "movq": load_movq,
    "transformer": load_transformer,
    "text_encoder": load_text_encoder,
    "image_encoder": load_image_encoder,
    **{name: (lambda name=name: load_depth(name)) for name in DEPTH},
}


@pytest.fixture(params=PARTS)
def part(models, request) -> Part:
    return PARTS[request.param]()


def layers_of(patcher) -> dict[str, tuple[torch.nn.Module, set[str]]]:
    """Name → layer that holds tensors of its own, and the devices they are on."""
    found = {}
    for name, layer in patcher.model.named_modules():
        tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if tensors:
            found[name] = layer, {tensor.device.type for tensor in tensors}
    return found


def misplaced(patcher, device: torch.device) -> list[str]:
    """Layers that would fail there: they are elsewhere, and do not bring their weights along."""
    return [
        name
        for name, (layer, devices) in layers_of(patcher).items()
        if devices != {device.type}
        and not (getattr(layer, "comfy_cast_weights", False) and len(devices) == 1)
    ]


def left(patcher, device: torch.device) -> int:
    """How many layers are not there."""
    return sum(devices != {device.type} for _, devices in layers_of(patcher).values())


# --- where tensors are ------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7, 1.5])
def test_loading_in_part_forgets_nothing(part, fraction):
    patcher = part.patcher
    count = len(layers_of(patcher))
    patcher.partially_load(META, part.share(fraction))
    assert misplaced(patcher, META) == []
    if fraction < 1:
        assert 0 < left(patcher, META) < count or fraction == 0.0
    else:
        assert left(patcher, META) == 0


@pytest.mark.parametrize("fraction", [0.3, 0.7, 1.0])
def test_unloading_in_part_takes_only_what_comes_back(part, fraction):
    patcher = part.patcher
    patcher.partially_load(CPU, ALL)
    assert left(patcher, CPU) == 0
    freed = patcher.partially_unload(META, part.share(fraction))
    assert freed > 0 and left(patcher, CPU) > 0
    assert misplaced(patcher, CPU) == []


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7])
def test_in_part_it_computes_the_same(part, fraction):
    patcher = part.patcher
    patcher.partially_load(CPU, ALL)
    whole = part.run()
    assert torch.isfinite(whole).all() and whole.std() > 0
    patcher.partially_unload(CPU, part.share(1 - fraction))
    assert patcher.model.model_lowvram
    assert torch.equal(part.run(), whole)
    patcher.detach()
    patcher.partially_load(CPU, part.share(fraction))
    assert patcher.model.model_lowvram
    assert torch.equal(part.run(), whole)
    patcher.detach()
    patcher.partially_load(CPU, ALL)
    assert torch.equal(part.run(), whole)


# --- what is freed ----------------------------------------------------------------------------


def work() -> list[weakref.ref]:
    """Load everything, use it, and leave weak references to all values and modules."""
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    model, vae = LoadDecoder.execute(DECODER, "default").args
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
    """At once: there are no circles, which would wait for the garbage collector."""
    gc.disable()
    try:
        references = work()
        comfy.model_management.unload_all_models()
        comfy.model_management.cleanup_models()
        assert not [reference() for reference in references if reference() is not None]
    finally:
        gc.enable()


# --- what the host sees -----------------------------------------------------------------------


def test_values_name_their_models(models):
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    parts = (prior.transformer, prior.text_encoder, prior.image_encoder)
    assert prior.get_models() == [part.patcher for part in parts]
    estimator = LoadDepthEstimator.execute("tiny-dpt").args[0]
    assert estimator.get_models() == [estimator.model.patcher]


@pytest.mark.skipif(
    not hasattr(caching, "is_model_patcher_output"),
    reason="this host's cache knows ModelPatchers only, or no models at all",
)
@pytest.mark.parametrize("load, name", [(NativePrior, PRIOR), (NativeDepthEstimator, "tiny-dpt")])
def test_old_models_are_the_first_to_leave_the_cache(models, load, name):
    """When memory is short, before the pictures of the same old workflow."""
    values = {"model": load(name), "picture": torch.zeros(1, 64, 64, 3), "number": 1}
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
    """The host keeps what the running workflow needs, if it can take memory back bit by bit."""
    for value in (NativePrior(PRIOR), NativeDepthEstimator("tiny-dpt")):
        assert value.is_dynamic() == all(model.is_dynamic() for model in value.get_models())


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag, wanted",
    [
        ("fp8_e4m3fn_unet", torch.float32),
        ("fp8_e5m2_unet", torch.float32),
        ("bf16_unet", torch.bfloat16),
        ("fp16_unet", torch.float16),
    ],
)
def test_the_hosts_flags_for_weights(models, monkeypatch, caplog, flag, wanted):
    """--fp16-unet and the like; fp8, which our modules cannot compute in, is refused aloud."""
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    model = LoadDecoder.execute(DECODER, "default").args[0]
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    assert {tensor.dtype for tensor in model.model.diffusion_model.parameters()} == {wanted}
    embeds, negative = SamplePrior.execute(prior, "a cat", "a dog", 0, 2, 4.0, 1).args
    settings = dict(seed=0, steps=2, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
    latent, hint = {"samples": torch.zeros(1, 4, 8, 8)}, torch.zeros(1, 64, 64, 3)
    inputs = (model, embeds, latent, hint)
    stages.ControlNet.execute(*inputs, negative_image_embeds=negative, **settings)
    assert ("cannot keep its weights in fp8" in caplog.text) == flag.startswith("fp8")


@pytest.mark.parametrize("flag", ["bf16_unet", "fp16_unet"])
@pytest.mark.parametrize("name", DEPTH)
def test_depth_with_weights_of_another_type(models, monkeypatch, name, flag):
    """On a CPU these flags leave computing to float32, and the norms must take it."""
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    wanted = DepthHint.execute(LoadDepthEstimator.execute(name).args[0], picture).args[0]
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    estimator = LoadDepthEstimator.execute(name).args[0]
    assert estimator.model.dtype == torch.float32
    hint = DepthHint.execute(estimator, picture).args[0]
    assert (hint - wanted).abs().max() < 0.05


@pytest.mark.parametrize("variant", ["text_to_image", "depth"])
@pytest.mark.parametrize("attention, size", [("fused", 512), ("math", 1024)])
def test_the_memory_estimate_is_what_was_measured(monkeypatch, variant, attention, size):
    """At published size, without its weights: the peak of a traced forward."""
    from accelerate import init_empty_weights
    from kandinsky22.utils.comfyui.model import Kandinsky22, Settings
    from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
    from kandinsky22.utils.files import architectures

    from tools import measure_memory

    if attention == "fused":
        monkeypatch.setattr(
            comfy.model_management, "pytorch_attention_flash_attention", lambda: True
        )
    settings = Settings(**architectures.UNETS[variant])
    with init_empty_weights():
        unet = Kandinsky22UNet.from_config(settings.unet)
    model = Kandinsky22(unet, settings, (torch.float32, torch.float32))
    side = size // 8
    estimate = model.memory_required([2, 4, side, side]) / (2 * side**2 * torch.float32.itemsize)
    found = measure_memory.measure(variant, size, 2, torch.float32, attention)
    assert 1.0 <= estimate / found <= 1.15
