"""Modules that ComfyUI loads or unloads in part lose no weight and compute the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers.tiny_models import DEPTH, PRIOR
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.utils.kandinsky.prior import TextFeatures

pytestmark = [pytest.mark.usefixtures("nothing_shared"), pytest.mark.long]
# The places of tensors can be tested without hardware: tensors are on one of two devices.
CPU, META = torch.device("cpu"), torch.device("meta")
DEPTH_ESTIMATORS = ["tiny-glpn", "tiny-dpt", "tiny-depth-anything"]
ALL = 1e32


class Part(NamedTuple):
    """A module that is freshly loaded, and a call of it."""

    patcher: Any
    run: Callable[[], torch.Tensor]

    def share(self, fraction: float) -> float:
        """Return this share of its weights in bytes. In ComfyUI, 0 means no limit."""
        return max(0.1, fraction * self.patcher.model_size())


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def load_unet() -> Part:
    patcher = LoadDecoder.execute(DEPTH, "default").args[0]
    unet = patcher.model.diffusion_model
    inputs = (random(2, 4, 8, 8), torch.tensor([5.0, 5.0]), random(2, 1, 24))
    return Part(patcher, lambda: unet(*inputs, hint=random(2, 3, 64, 64)))


def load_movq() -> Part:
    patcher = LoadDecoder.execute(DEPTH, "default").args[1].patcher
    movq = patcher.model
    return Part(patcher, lambda: movq.decode(movq.encode(random(1, 3, 64, 64))))


def load_transformer() -> Part:
    patcher = LoadPrior.execute(PRIOR, "default").args[0].transformer.patcher
    text = TextFeatures(random(2, 24), random(2, 77, 24), torch.ones(2, 77).bool())
    noisy, module = random(2, 24), patcher.model.module
    return Part(patcher, lambda: module(noisy, torch.tensor(5), module.read(text)))


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
    **{name: (lambda name=name: load_depth(name)) for name in DEPTH_ESTIMATORS},
}


@pytest.fixture(params=PARTS)
def part(models, request) -> Part:
    return PARTS[request.param]()


def layers_of(patcher) -> dict[str, tuple[torch.nn.Module, set[str]]]:
    """Return name → layer that holds its own tensors, and the devices they are on."""
    found = {}
    for name, layer in patcher.model.named_modules():
        tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if tensors:
            found[name] = layer, {tensor.device.type for tensor in tensors}
    return found


def misplaced(patcher, device: torch.device) -> list[str]:
    """Return layers that would fail: they are on another device, and do not cast their weights."""
    return [
        name
        for name, (layer, devices) in layers_of(patcher).items()
        if devices != {device.type}
        and not (getattr(layer, "comfy_cast_weights", False) and len(devices) == 1)
    ]


def left(patcher, device: torch.device) -> int:
    """Return how many layers are on another device."""
    return sum(devices != {device.type} for _, devices in layers_of(patcher).values())


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


def test_stray_tensors_follow_to_the_load_device(models, nothing_shared):
    """On the meta device, which needs no hardware, no tensor without a cast hook is left."""
    from kandinsky22.utils.comfyui.residents import move_stray_tensors

    model, vae = LoadDecoder.execute(DEPTH, "default").args
    fresh = LoadPrior.execute(PRIOR, "default").args[0]
    for patcher in [model, vae.patcher, *fresh.get_models()]:
        move_stray_tensors(patcher, torch.device("meta"))
        for module in patcher.model.modules():
            if not hasattr(module, "comfy_cast_weights"):
                own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
                assert all(tensor.is_meta for tensor in own)
