"""No device gets float64, which Apple's GPUs do not have. The test checks every call."""

import traceback

import pytest
import torch
from helpers.decoding_stages import run
from helpers.every_stage import AT_ONCE, IN_STEPS, each
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22.nodes.decoder import Decoder
from kandinsky22.utils.kandinsky.schedulers import SAMPLERS
from torch.overrides import TorchFunctionMode


class Watch(TorchFunctionMode):
    """Records every call that gives float64.

    The only device here is the CPU, so all calls count.
    """

    def __init__(self):
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            where = traceback.extract_stack(limit=3)[0]
            self.made.append(f"{function.__name__} in {where.filename}:{where.lineno}")
        return result


@each(IN_STEPS | AT_ONCE)
def test_no_float64(request, build):
    stage = build(request.getfixturevalue)
    with Watch() as watch:
        stage.run()
    assert not watch.made, watch.made


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_has_float64(load_decoder, embeds, sampler):
    model, latent = load_decoder(TEXT_TO_IMAGE)[0], {"samples": torch.zeros(1, 4, 8, 8)}
    with Watch() as watch:
        run(Decoder, model, embeds(1, 1), embeds(1, 2), latent, sampler_name=sampler)
    assert not watch.made, watch.made


def test_what_is_watched_for():
    with Watch() as watch:
        torch.zeros(1).double()
        torch.ones(1, dtype=torch.float64)
    assert len(watch.made) == 2
