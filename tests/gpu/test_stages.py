"""Every stage and KSampler on a GPU give nearly the results of diffusers in fp32 on the CPU.

These tests have never run so far. The tolerances follow from the rounding of the dtypes in a few
steps, and were never tried on a GPU. Noise is drawn on the CPU, so it is the same for both.
"""

import comfy.cli_args
import comfy.sample
import pytest
import torch
from helpers import oracle
from kandinsky22 import nodes as stages
from kandinsky22.nodes.conditioning import Conditioning
from kandinsky22.nodes.loaders import LoadDecoder, LoadPrior
from kandinsky22.nodes.prior import SamplePrior
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("nothing_shared")]

TEXT_TO_IMAGE = "kandinsky-2-2-tiny-decoder"
INPAINT = "kandinsky-2-2-tiny-decoder-inpaint"
DEPTH = "kandinsky-2-2-tiny-controlnet-depth"
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}  # of the difference's norm, see `apart`
SAMPLING = dict(seed=7, steps=6, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
dtypes = pytest.mark.parametrize("dtype", TOLERANCES)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def apart(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the norm of the difference, divided by that of the wanted result."""
    ours, wanted = ours.float().cpu(), wanted.float().cpu()
    return ((ours - wanted).norm() / wanted.norm()).item()


@pytest.fixture(autouse=True)
def vae_type(request, monkeypatch):
    """MoVQ has no widget for its dtype. ComfyUI takes fp16 without an option."""
    params = getattr(request.node, "callspec", None)
    if params and params.params.get("dtype") == "fp32":
        monkeypatch.setattr(comfy.cli_args.args, "fp32_vae", True)


def load(name: str, dtype: str):
    model, vae = LoadDecoder.execute(name, dtype).args
    assert model.load_device.type == "cuda"
    return model, vae


def reference(name: str, folder, positive: ImageEmbeds, negative: ImageEmbeds, **inputs):
    """Return the latents of a pipeline, or the pixels of a controlnet one."""
    return oracle.pipeline(name, folder)(
        image_embeds=positive.tensor,
        negative_image_embeds=negative.tensor,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=oracle.generators(7, positive.batch),
        height=64,
        width=64,
        **inputs,
    ).images


def run(node, model, positive, negative, latent, **inputs) -> torch.Tensor:
    result = node.execute(
        model, positive, {"samples": latent}, negative_image_embeds=negative, **SAMPLING, **inputs
    )
    return result.args[0]["samples"]


@dtypes
def test_prior(models, dtype):
    prior = LoadPrior.execute("kandinsky-2-2-tiny-prior", dtype).args[0]
    ours = SamplePrior.execute(prior, "a red cat", "blurry", 7, 5, 4.0, 1).args
    theirs = oracle.pipeline("KandinskyV22PriorPipeline", models / "kandinsky-2-2-tiny-prior")(
        "a red cat",
        negative_prompt="blurry",
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(7),
    ).to_tuple()
    for mine, wanted in zip(ours, theirs, strict=True):
        assert apart(mine.tensor, wanted) <= TOLERANCES[dtype]


@dtypes
@pytest.mark.parametrize("batch", [1, 2])
def test_decoder(models, embeds, dtype, batch):
    pair = embeds(batch, 1), embeds(batch, 2)
    model, _ = load(TEXT_TO_IMAGE, dtype)
    ours = run(stages.Decoder, model, *pair, torch.zeros(batch, 4, 8, 8))
    theirs = reference("KandinskyV22Pipeline", models / TEXT_TO_IMAGE, *pair, output_type="latent")
    assert apart(ours, theirs) <= TOLERANCES[dtype]


@dtypes
def test_img2img_and_the_way_in(models, embeds, dtype):
    image, pair = random(1, 64, 64, 3), (embeds(1, 1), embeds(1, 2))
    model, vae = load(TEXT_TO_IMAGE, dtype)
    ours = run(stages.Img2Img, model, *pair, vae.encode(image), denoise=0.5)
    theirs = reference(
        "KandinskyV22Img2ImgPipeline",
        models / TEXT_TO_IMAGE,
        *pair,
        image=image.movedim(-1, 1).contiguous() * 2 - 1,
        strength=0.5,
        output_type="latent",
    )
    assert apart(ours, theirs) <= TOLERANCES[dtype]


@dtypes
def test_inpaint(models, embeds, dtype):
    image, mask, pair = random(1, 64, 64, 3), torch.zeros(1, 64, 64), (embeds(1, 1), embeds(1, 2))
    mask[:, 10:34, 20:50] = 1
    model, vae = load(INPAINT, dtype)
    ours = run(stages.Inpaint, model, *pair, vae.encode(image), mask=mask)
    theirs = reference(
        "KandinskyV22InpaintPipeline",
        models / INPAINT,
        *pair,
        image=image.movedim(-1, 1).contiguous() * 2 - 1,
        mask_image=mask.clone(),
        output_type="latent",
    )
    assert apart(ours, theirs) <= TOLERANCES[dtype]


@dtypes
def test_controlnet_and_the_way_out(models, embeds, dtype):
    hint, pair = random(1, 64, 64, 3, seed=5), (embeds(1, 1), embeds(1, 2))
    model, vae = load(DEPTH, dtype)
    ours = run(stages.ControlNet, model, *pair, torch.zeros(1, 4, 8, 8), hint=hint)
    theirs = reference(
        "KandinskyV22ControlnetPipeline",
        models / DEPTH,
        *pair,
        hint=hint.movedim(-1, 1).contiguous(),
        output_type="np",
    )
    assert apart(vae.decode(ours), torch.from_numpy(theirs)) <= TOLERANCES[dtype]


def ksampler(model, positive, negative, steps: int = 6) -> torch.Tensor:
    conditions = [Conditioning.execute(value).args[0] for value in (positive, negative)]
    canvas = torch.zeros(1, 4, 8, 8)
    noise = comfy.sample.prepare_noise(canvas, 7)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        4.0,
        "euler",
        "normal",
        *conditions,
        canvas,
        disable_pbar=True,
        seed=7,
    )


@dtypes
def test_ksampler(models, embeds, dtype):
    """It is compared with itself in fp32.

    tests/ksampler/test_samplers_of_comfyui.py compares that with diffusers on a CPU.
    """
    pair = embeds(1, 1), embeds(1, 2)
    wanted = ksampler(load(TEXT_TO_IMAGE, "fp32")[0], *pair)
    ours = ksampler(load(TEXT_TO_IMAGE, dtype)[0], *pair)
    assert apart(ours, wanted) <= TOLERANCES[dtype]


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_last_and_compiled(models, embeds, channels_last):
    from comfy_extras.nodes_torch_compile import TorchCompileModel
    from kandinsky22.nodes.optimize import Optimize

    pair, canvas = (embeds(1, 1), embeds(1, 2)), torch.zeros(1, 4, 8, 8)
    model, _ = load(TEXT_TO_IMAGE, "fp16")
    wanted = run(stages.Decoder, model, *pair, canvas)
    model = Optimize.execute(model, "sdpa", channels_last).args[0]
    compiled = TorchCompileModel.execute(model, "inductor").args[0]
    for changed in (model, compiled):
        assert apart(run(stages.Decoder, changed, *pair, canvas), wanted) <= TOLERANCES["fp16"]
