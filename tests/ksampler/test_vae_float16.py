"""MoVQ computes in float32 what float16 cannot hold."""

import shutil

import comfy.cli_args
import pytest
import torch
from diffusers import VQModel
from helpers import oracle
from helpers.tiny_models import TEXT_TO_IMAGE, WEIGHTS
from helpers.vae_nodes import as_image, decode, encode, random_latents, random_picture
from kandinsky22.utils.comfyui.vae import load_vae
from safetensors.torch import load_file, save_file

import nodes

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


@pytest.fixture
def half(monkeypatch):
    """Use the option --fp16-vae."""
    monkeypatch.setattr(comfy.cli_args.args, "fp16_vae", True)


@pytest.fixture
def loud(models, tmp_path):
    """A decoder folder whose MoVQ leaves the range of float16 in both directions.

    Its weights fit.
    """
    folder = shutil.copytree(models / TEXT_TO_IMAGE, tmp_path / "loud")
    tensors = load_file(folder / "movq" / WEIGHTS)
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        tensors[name] = (tensors[name] * 60_000).clamp(-65_000, 65_000)
    save_file(tensors, folder / "movq" / WEIGHTS)
    return folder


@pytest.fixture
def rounded(loud):
    """diffusers' MoVQ in float32, with its weights rounded to float16."""
    return VQModel.from_pretrained(loud / "movq").half().float()


def overflows(caplog) -> int:
    return caplog.text.count("leaves the range of float16")


def test_what_float16_cannot_hold_is_computed_in_float32(half, loud, rounded, caplog):
    vae, latents, image = load_vae(loud), random_latents().half(), random_picture()
    assert vae.vae_dtype == torch.float16
    assert not torch.isfinite(rounded.half().decode(latents, force_not_quantize=True).sample).all()
    wanted = rounded.float().decode(latents.float(), force_not_quantize=True).sample
    assert oracle.max_diff(decode(vae, latents), as_image(wanted)) == 0.0
    wanted = rounded.encode((image.movedim(-1, 1) * 2 - 1).half().float()).latents
    assert oracle.max_diff(encode(vae, image), wanted) == 0.0
    assert overflows(caplog) == 1
    assert {tensor.dtype for tensor in vae.get_sd().values()} == {torch.float16}


def test_encode_finds_it_too(half, loud, caplog):
    assert torch.isfinite(encode(load_vae(loud), random_picture())).all()
    assert overflows(caplog) == 1


def test_tiles_too(half, loud, monkeypatch, caplog):
    latents = random_latents(1, 12, 12).half()
    tiled = nodes.VAEDecodeTiled().decode(load_vae(loud), {"samples": latents}, 64, 16)[0]
    assert overflows(caplog) == 1
    tensors = load_file(loud / "movq" / WEIGHTS)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, loud / "movq" / WEIGHTS)
    monkeypatch.setattr(comfy.cli_args.args, "fp16_vae", False)
    wide = load_vae(loud)
    assert wide.vae_dtype == torch.float32
    wanted = nodes.VAEDecodeTiled().decode(wide, {"samples": latents}, 64, 16)[0]
    assert oracle.max_diff(tiled, wanted) == 0.0


@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_partly_loaded_it_is_the_same(half, loud, rounded, fraction):
    vae, latents = load_vae(loud), random_latents().half()
    vae.patcher.load(CPU, lowvram_model_memory=int(vae.model_size() * fraction))
    movq = vae.first_stage_model
    before = [getattr(layer, "comfy_cast_weights", None) for layer in movq.modules()]
    assert True in before
    wanted = rounded.decode(latents.float(), force_not_quantize=True).sample
    assert oracle.max_diff(movq.decode(latents), wanted) == 0.0
    assert before == [getattr(layer, "comfy_cast_weights", None) for layer in movq.modules()]


def test_what_float16_can_hold_stays_in_it(half, models, theirs, caplog):
    vae, latents = load_vae(models / TEXT_TO_IMAGE), random_latents().half()
    wanted = theirs.half().decode(latents, force_not_quantize=True).sample
    assert oracle.max_diff(decode(vae, latents), as_image(wanted.float())) == 0.0
    assert overflows(caplog) == 0


@pytest.mark.parametrize("bad", [float("nan"), 1e6])
def test_bad_latents_are_not_tried_again(half, models, caplog, bad):
    vae, latents = load_vae(models / TEXT_TO_IMAGE), random_latents()
    latents[0, 0, 0, 0] = bad  # 1e6 is infinity in float16
    assert decode(vae, latents).isnan().any()
    assert overflows(caplog) == 0 and not vae.first_stage_model.wide


def test_a_wide_vae_asks_for_wide_memory(half, loud):
    vae, shape = load_vae(loud), (1, 4, 64, 64)
    before = vae.memory_used_decode(shape, torch.float16)
    decode(vae, random_latents())
    assert vae.memory_used_decode(shape, torch.float16) == 2 * before
