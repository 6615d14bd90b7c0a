"""The memory that a MODEL and a VAE report equals that of tracing and of the allocator."""

import json

import comfy.cli_args
import comfy.model_management
import comfy.ops
import pytest
import torch
from helpers.vae_nodes import random_latents
from torch._subclasses.fake_tensor import FakeTensorMode

from tools import measure_memory

pytestmark = pytest.mark.long


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_the_estimates_are_what_tracing_finds(vae, verb):
    shape = (1, 3, 512, 512) if verb == "encode" else (1, 4, 64, 64)
    for dtype in (torch.float32, torch.bfloat16):
        found = measure_memory.measure("movq", 512, 1, dtype, "fused", verb)
        estimate = getattr(vae, f"memory_used_{verb}")(shape, dtype)
        assert estimate == pytest.approx(found * 64 * 64 * dtype.itemsize, rel=0.1)


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_the_estimates_where_scores_are_written_out(vae, verb):
    shape = (1, 3, 2048, 2048) if verb == "encode" else (1, 4, 256, 256)
    found = measure_memory.measure("movq", 2048, 1, torch.bfloat16, "math", verb)
    estimate = getattr(vae, f"memory_used_{verb}")(shape, torch.bfloat16)
    assert estimate == pytest.approx(found * 256 * 256 * 2, rel=0.1)


def test_tracing_finds_what_the_allocator_gives(vae, tmp_path):
    movq, latents = vae.first_stage_model, random_latents(1, 32, 32)
    traced = measure_memory.peak_bytes(lambda: movq.decode(latents))
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], profile_memory=True) as profile:
        movq.decode(latents)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    alive = torch.tensor([size for _, size in steps]).cumsum(0)
    assert traced == pytest.approx(alive.max().item(), rel=0.05)


@pytest.mark.long
@pytest.mark.parametrize("variant", ["text_to_image", "depth"])
@pytest.mark.parametrize("attention, size", [("fused", 512), ("math", 1024)])
def test_the_memory_estimate_is_what_was_measured(monkeypatch, variant, attention, size):
    """The estimate equals the peak of a traced forward at published size, without weights."""
    from accelerate import init_empty_weights
    from kandinsky22.utils.comfyui.model import Kandinsky22
    from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
    from kandinsky22.utils.files import architectures
    from kandinsky22.utils.files.decoder_configs import DecoderConfigs

    from tools import measure_memory

    if attention == "fused":
        monkeypatch.setattr(
            comfy.model_management, "pytorch_attention_flash_attention", lambda: True
        )
    published = architectures.DECODERS[variant]
    configs = DecoderConfigs(published.unet, published.scheduler)
    with init_empty_weights():
        unet = Kandinsky22UNet.from_config(configs.unet)
    model = Kandinsky22(unet, configs, (torch.float32, torch.float32))
    side = size // 8
    estimate = model.memory_required([2, 4, side, side]) / (2 * side**2 * torch.float32.itemsize)
    found = measure_memory.measure(variant, size, 2, torch.float32, attention)
    assert 1.0 <= estimate / found <= 1.15


@pytest.mark.parametrize("network", ["prior", "one_pass_prior", "text_encoder", "image_encoder"])
def test_the_estimate_for_the_prior_is_what_was_measured(network):
    """The estimate equals the peak of a traced forward at published size, without weights."""
    from kandinsky22.utils.comfyui.residents import ACTIVATIONS, ONE_PASS_ACTIVATIONS

    from tools import measure_memory

    found = measure_memory.measure_prior(network, 2, torch.float32)
    told = ONE_PASS_ACTIVATIONS if network == "one_pass_prior" else ACTIVATIONS
    assert 1.0 <= told / found <= 1.26


@pytest.mark.parametrize("kind", ["text_encoder", "image_encoder"])
def test_the_estimate_for_comfyuis_clip_is_what_was_measured(kind):
    """This is ComfyUI's own bigG at published size, which computes in float32."""
    from comfy import clip_model
    from kandinsky22.utils.comfyui.residents import ACTIVATIONS
    from kandinsky22.utils.files import architectures

    config = architectures.PRIOR[kind] | dict(
        model_type="clip_vision_model", num_channels=3, eos_token_id=49407
    )
    build = dict(
        text_encoder=clip_model.CLIPTextModel,
        image_encoder=clip_model.CLIPVisionModelProjection,
    )[kind]
    with torch.inference_mode(False), FakeTensorMode(), torch.device("cpu"):
        module = build(config, torch.float32, "cpu", comfy.ops.manual_cast)
        module.eval().requires_grad_(False)
        if kind == "text_encoder":
            tokens, inputs = 77, torch.zeros(2, 77, dtype=torch.long)
        else:
            tokens, inputs = 257, torch.empty(2, 3, 224, 224)
        peak = measure_memory.peak_bytes(lambda: module(inputs, intermediate_output=-2))
    found = peak / 4 / 2 / tokens / config["hidden_size"]
    assert 1.0 <= ACTIVATIONS / found <= 1.35


def test_comfyui_is_told_what_a_prior_needs(prior, monkeypatch):
    """This holds for each of its parts, for the rows, tokens and channels that it runs on."""
    told = {}
    load = comfy.model_management.load_models_gpu

    def note(models, memory_required=0, **options):
        told[models[0]] = memory_required
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    prior.sample("a cat", "a dog", 7, 3, 4.0, batch_size=2)
    prior.encode_image(torch.rand(3, 40, 40, 3))
    parts = (prior.transformer, prior.text_encoder, prior.image_encoder)
    configs = [part.patcher.model.module.config for part in parts]
    tokens = configs[0].num_embeddings + configs[0].additional_embeddings
    width = configs[0].num_attention_heads * configs[0].attention_head_dim
    pixels = (configs[2].image_size // configs[2].patch_size) ** 2 + 1
    numbers = [
        2 * 2 * 2 * tokens * width,  # guided, two items, prompt and negative prompt
        2 * configs[1].max_position_embeddings * configs[1].hidden_size,
        3 * pixels * configs[2].hidden_size,
    ]
    assert [told[part.patcher] for part in parts] == [15 * 4 * count for count in numbers]
