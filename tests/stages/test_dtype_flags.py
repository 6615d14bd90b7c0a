"""ComfyUI's options for the dtypes of weights are followed, and those for fp8 get a warning."""

import comfy.cli_args
import comfy.model_management
import pytest
import torch
from helpers.tiny_models import DEPTH, PRIOR
from kandinsky22 import nodes as stages
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.nodes.prior import SamplePrior
from kandinsky22.utils.comfyui import clip, dtypes
from kandinsky22.utils.kandinsky import prior_runs as loops

pytestmark = pytest.mark.usefixtures("nothing_shared")
DEPTH_ESTIMATORS = ["tiny-glpn", "tiny-dpt", "tiny-depth-anything"]


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
    """This is for --fp16-unet and similar options. fp8, which our modules lack, gets a warning."""
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    model = LoadDecoder.execute(DEPTH, "default").args[0]
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    assert {tensor.dtype for tensor in model.model.diffusion_model.parameters()} == {wanted}
    embeds, negative = SamplePrior.execute(prior, "a cat", "a dog", 0, 2, 4.0, 1).args
    settings = dict(seed=0, steps=2, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
    latent, hint = {"samples": torch.zeros(1, 4, 8, 8)}, torch.zeros(1, 64, 64, 3)
    inputs = (model, embeds, latent, hint)
    stages.ControlNet.execute(*inputs, negative_image_embeds=negative, **settings)
    assert ("cannot keep its weights in fp8" in caplog.text) == flag.startswith("fp8")


@pytest.mark.parametrize("flag", ["bf16_unet", "fp16_unet"])
@pytest.mark.parametrize("name", DEPTH_ESTIMATORS)
def test_depth_with_weights_of_another_type(models, monkeypatch, name, flag):
    """On a CPU, these options leave computation in float32, and the norms must accept it."""
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    wanted = DepthHint.execute(LoadDepthEstimator.execute(name).args[0], picture).args[0]
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    estimator = LoadDepthEstimator.execute(name).args[0]
    assert estimator.model.dtype == torch.float32
    hint = DepthHint.execute(estimator, picture).args[0]
    assert (hint - wanted).abs().max() < 0.05


@pytest.mark.parametrize(
    "flag, wanted",
    [
        ("fp16_text_enc", torch.float16),
        ("bf16_text_enc", torch.bfloat16),
        ("fp32_text_enc", torch.float32),
        ("fp8_e4m3fn_text_enc", torch.float32),
    ],
)
def test_clip_follows_the_flags_for_text_encoders(models, monkeypatch, flag, wanted):
    """--fp32-text-enc and similar options are for CLIP's two encoders, and not for the transformer.

    fp8, in which CLIP cannot compute, changes nothing. The widget counts before the options.
    """
    monkeypatch.setattr(comfy.cli_args.args, flag, True)

    def dtypes(resident) -> set[torch.dtype]:
        return {tensor.dtype for tensor in resident.patcher.model.parameters()}

    prior = LoadPrior.execute(PRIOR, "default").args[0]
    assert dtypes(prior.text_encoder) == dtypes(prior.image_encoder) == {wanted}
    assert dtypes(prior.transformer) == {torch.float32}
    embeds, negative = SamplePrior.execute(prior, "a cat", "", 0, 2, 4.0, 1).args
    assert torch.isfinite(embeds.tensor).all() and torch.isfinite(negative.tensor).all()
    prior = LoadPrior.execute(PRIOR, "bf16").args[0]
    assert dtypes(prior.text_encoder) == {torch.bfloat16}


def test_clip_lives_where_comfyui_keeps_text_encoders(models, monkeypatch):
    """It has its own device, if ComfyUI says so. The prior's transformer stays where it was."""
    there, away = torch.device("meta"), torch.device("cpu")
    monkeypatch.setattr(comfy.model_management, "text_encoder_device", lambda: there)
    monkeypatch.setattr(comfy.model_management, "text_encoder_offload_device", lambda: away)
    prior = LoadPrior.execute(PRIOR, "fp32").args[0]
    for encoder in (prior.text_encoder, prior.image_encoder):
        assert (encoder.patcher.load_device, encoder.patcher.offload_device) == (there, away)
    assert prior.transformer.patcher.load_device == comfy.model_management.get_torch_device()


def test_what_clip_gives_is_brought_to_the_transformer(models, monkeypatch):
    """CLIP may compute in another dtype, and on another device, than the prior's transformer."""
    half = (torch.bfloat16, torch.bfloat16)
    monkeypatch.setattr(clip, "pick_clip_dtypes", lambda *_: half)
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    assert prior.text_encoder.encode(["a cat"]).embeds.dtype == torch.bfloat16
    seen, denoise = [], loops.denoise

    def note(transformer, scheduler, timesteps, latents, text, *more, **options):
        seen.append({tensor.dtype for tensor in (text.embeds, text.states)})
        assert {text.embeds.device, text.states.device, text.mask.device} == {latents.device}
        return denoise(transformer, scheduler, timesteps, latents, text, *more, **options)

    monkeypatch.setattr(loops, "denoise", note)
    embeds, _ = SamplePrior.execute(prior, "a cat", "a dog", 0, 2, 4.0, 1).args
    assert seen == [{torch.float32}] and torch.isfinite(embeds.tensor).all()


@pytest.mark.parametrize("beside", ["cuda", "cpu"])
def test_clip_on_the_cpu_beside_a_gpu_is_kept_in_fp16(monkeypatch, beside):
    """That takes half the memory, as for ComfyUI's text encoders. Without a GPU it is fp32."""
    device = torch.device(beside)
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: device)
    wanted = torch.float16 if beside == "cuda" else torch.float32
    found = dtypes.pick_clip_dtypes("default", torch.device("cpu"))
    assert found == (wanted, torch.float32)
