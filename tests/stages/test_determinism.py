"""A call gives the same bits after other calls, after unloading, and with partial loading.

This holds on every version of ComfyUI, as the stages are compared with diffusers there, bit for bit
(files beside this one, host/test_server). The tests of each stage check what a batch does to its
items.
"""

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from helpers.decoding_stages import picture
from helpers.every_stage import AT_ONCE, IN_STEPS, each
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.embeds import EncodeImage
from kandinsky22.nodes.loaders import LoadDepthEstimator

EVERY = IN_STEPS | AT_ONCE


@pytest.mark.long
def test_whatever_ran_before(request):
    """Every stage runs, then all in the opposite order, then all after loading everything again."""
    stages = {name: build(request.getfixturevalue) for name, build in EVERY.items()}
    first = {name: stage.run() for name, stage in stages.items()}
    torch.manual_seed(1)  # ComfyUI's own nodes leave the global generator in any state
    again = {name: stages[name].run() for name in reversed(stages)}
    comfy.model_management.unload_all_models()
    anew = {name: stage.run() for name, stage in stages.items()}
    for name, wanted in first.items():
        assert torch.equal(again[name], wanted) and torch.equal(anew[name], wanted), name


@pytest.fixture
def load_in_part(monkeypatch):
    """Limit the memory for ComfyUI's models, so that only a share of each is loaded."""
    load = comfy.model_patcher.ModelPatcher.partially_load

    def give(share: float) -> None:
        def load_part(patcher, device, _, **rest):
            return load(patcher, device, max(0.1, share * patcher.model_size()), **rest)

        comfy.model_management.unload_all_models()
        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "partially_load", load_part)

    yield give
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("share", [0.0, 0.5])
@each(EVERY)
def test_loaded_in_part(request, load_in_part, build, share):
    stage = build(request.getfixturevalue)
    wanted = stage.run()
    load_in_part(share)
    assert torch.equal(stage.run(), wanted)
    assert stage.patcher.model.model_lowvram


def test_a_picture_alone_or_in_a_batch(prior):
    """The other stages have their own tests.

    There are ten pictures, of which eight run at a time.
    """
    image = picture(10)
    together = EncodeImage.execute(prior, image).args[0].tensor
    estimator = LoadDepthEstimator.execute("tiny-dpt").args[0]
    hints = DepthHint.execute(estimator, image).args[0]
    assert len(together) == len(hints) == 10
    for i in (0, 7, 8, 9):
        one = image[i : i + 1]
        alone = EncodeImage.execute(prior, one).args[0].tensor
        assert (together[i : i + 1] - alone).abs().max() < 1e-4
        hint = DepthHint.execute(estimator, one).args[0]
        # A map is cut to 8 bits, so a difference of 1e-7 at the edge of a level gives another
        # level.
        apart = (hints[i : i + 1] - hint).abs()
        assert apart.max() < 1.01 / 255 and (apart > 0).float().mean() < 0.01
