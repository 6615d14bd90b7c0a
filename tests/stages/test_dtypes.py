"""The networks report the dtypes of their weights, and compute in another dtype if told to."""

import pytest
import torch
from diffusers.models.modeling_utils import get_parameter_dtype
from kandinsky22.nodes.controlnet import ControlNet
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.embeds import EncodeImage
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.nodes.prior import SamplePrior
from kandinsky22.utils.comfyui import depth_estimator, dtypes, load_model, load_prior, prediction
from kandinsky22.utils.comfyui.model_options import wrapped_options
from torch.overrides import TorchFunctionMode

CANVAS = {"samples": torch.zeros(1, 4, 8, 8)}
SAMPLING = dict(seed=7, steps=3, cfg=4.0)
COMPUTING = {"linear", "conv2d", "layer_norm", "group_norm", "scaled_dot_product_attention"}


@pytest.mark.parametrize("name, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_type_is_that_of_the_weights(models, nothing_shared, name, dtype):
    model = LoadDecoder.execute("kandinsky-2-2-tiny-decoder", name).args[0]
    prior = LoadPrior.execute("kandinsky-2-2-tiny-prior", name).args[0]
    for module in (model.model.diffusion_model, prior.transformer.patcher.model.module):
        assert module.dtype == get_parameter_dtype(module) == dtype
    assert model.model.get_dtype() == dtype  # ComfyUI asks for it in this way


class Computed(TorchFunctionMode):
    """The dtypes in which layers and attention compute."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_function__(self, function, _, args=(), kwargs=None):
        if getattr(function, "__name__", "") in COMPUTING:
            self.dtypes.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def kept_in_fp16(models, nothing_shared, monkeypatch):
    """Weights in fp16 and computation in fp32, as on a card without fast fp16."""
    for module in (depth_estimator, load_model, load_prior, dtypes):
        monkeypatch.setattr(module, "pick_dtypes", lambda *_: (torch.float16, torch.float32))


def test_the_prior_computes_in_its_own_type(kept_in_fp16, models):
    prior = LoadPrior.execute("kandinsky-2-2-tiny-prior", "default").args[0]
    pictures = torch.rand(1, 32, 32, 3)
    with Computed() as computed:
        EncodeImage.execute(prior, pictures)
        positive, _ = SamplePrior.execute(prior, "a cat", "blurry", 7, 3, 4.0, 1).args
    assert computed.dtypes == {torch.float32}
    assert torch.isfinite(positive.tensor).all()


def run_controlnet(embeds, hint: torch.Tensor) -> torch.Tensor:
    model, _ = LoadDecoder.execute("kandinsky-2-2-tiny-controlnet-depth", "default").args
    names = dict(sampler_name="ddpm", scheduler="checkpoint", **SAMPLING)
    inputs = dict(latent=CANVAS, negative_image_embeds=embeds(1, 2), hint=hint)
    return ControlNet.execute(model, embeds(1, 1), **inputs, **names).args[0]["samples"]


def test_the_decoder_computes_in_its_own_type(kept_in_fp16, embeds):
    with Computed() as computed:
        samples = run_controlnet(embeds, torch.rand(1, 64, 64, 3))
    assert computed.dtypes == {torch.float32} and torch.isfinite(samples).all()


@pytest.mark.parametrize("name", ["tiny-dpt", "tiny-depth-anything", "tiny-glpn"])
def test_a_depth_estimator_computes_in_its_own_type(kept_in_fp16, name):
    estimator = LoadDepthEstimator.execute(name).args[0]
    with Computed() as computed:
        (depth,) = DepthHint.execute(estimator, torch.rand(1, 64, 64, 3)).args
    assert computed.dtypes == {torch.float32} and torch.isfinite(depth).all()


def test_halved_pictures_are_hints_too(models, embeds):
    """--fp16-intermediates gives such pictures, which torch cannot resize on a CPU."""
    hint = torch.rand(1, 40, 48, 3).half()
    assert torch.equal(run_controlnet(embeds, hint), run_controlnet(embeds, hint.float()))


def test_no_timestep_is_a_float64(models, embeds):
    """Apple's devices have no float64, but diffusers' karras levels are float64."""
    model, _ = LoadDecoder.execute("kandinsky-2-2-tiny-decoder", "default").args
    timestep, seen = torch.tensor(3.5, dtype=torch.float64), []

    def note(_, arguments):
        seen.append(arguments[1].dtype)

    handle = model.model.diffusion_model.register_forward_pre_hook(note)
    try:
        predict = prediction.prediction(model, wrapped_options(model))
        predict(CANVAS["samples"], timestep, embeds(1, 1).tensor)
    finally:
        handle.remove()
    assert seen == [torch.float32]
