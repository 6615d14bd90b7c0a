"""MoVQ in the host's own VAE nodes: pictures, tiles, the range of float16, memory."""

import json
import shutil

import comfy.cli_args
import oracle
import pytest
import torch
from diffusers import VQModel
from kandinsky22.utils.comfyui.vae import load_vae
from safetensors.torch import load_file, save_file

import nodes
from tools import measure_memory
from tools.miniature.shapes import draw, sample_scenes

DECODER = "kandinsky-2-2-tiny-decoder"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CPU = torch.device("cpu")


def random_picture(batch=1, height=64, width=64, channels=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, height, width, channels, generator=generator)


def random_latents(batch=1, height=8, width=8) -> torch.Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(1))


def encode(vae, image) -> torch.Tensor:
    return nodes.VAEEncode().encode(vae, image)[0]["samples"]


def decode(vae, latents) -> torch.Tensor:
    return nodes.VAEDecode().decode(vae, {"samples": latents})[0]


def as_image(sample: torch.Tensor) -> torch.Tensor:
    """What diffusers' MoVQ decodes → IMAGE."""
    return (sample * 0.5 + 0.5).clamp(0, 1).movedim(1, -1)


@pytest.fixture
def vae(load_decoder):
    return load_decoder()[1]


@pytest.fixture
def theirs(models) -> VQModel:
    return VQModel.from_pretrained(models / DECODER / "movq")


# --- pictures and latents ---------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_the_nodes_equal_diffusers(vae, theirs, batch):
    image, latents = random_picture(batch, 64, 96), random_latents(batch, 8, 12)
    wanted = theirs.encode(image.movedim(-1, 1).contiguous() * 2 - 1).latents
    assert oracle.max_diff(encode(vae, image), wanted) == 0.0
    wanted = theirs.decode(latents, force_not_quantize=True).sample
    assert oracle.max_diff(decode(vae, latents), as_image(wanted)) == 0.0


def test_a_batch_keeps_its_order(vae):
    image = random_picture(3)
    image[0], image[2] = 0, 1
    together = encode(vae, image)
    pictures = decode(vae, together)
    for i in range(3):
        alone = encode(vae, image[i : i + 1])
        assert oracle.max_diff(together[i : i + 1], alone) < 1e-4
        assert oracle.max_diff(pictures[i : i + 1], decode(vae, alone)) < 1e-4
    assert oracle.max_diff(together[:1], together[2:]) > 0.1


def test_odd_sizes_lose_less_than_a_latent_pixel(vae):
    """The host cuts the same from both sides, down to multiples of 8."""
    image = random_picture(1, 67, 94)
    assert torch.equal(encode(vae, image), encode(vae, image[:, 1:65, 3:91]))
    assert decode(vae, random_latents(1, 7, 9)).shape == (1, 56, 72, 3)


@pytest.mark.parametrize("height, width", [(7, 64), (1, 1)])
def test_too_small_to_encode(vae, height, width):
    with pytest.raises(ValueError, match="too small to encode: 8 on each side are needed"):
        encode(vae, random_picture(1, height, width))


@pytest.mark.parametrize("decode", ["decode", "decode_tiled"])
def test_latents_that_are_none_of_ours(vae, decode):
    with pytest.raises(ValueError, match=r"not \(1, 16, 4, 4\): this LATENT is for another model"):
        getattr(vae, decode)(torch.zeros(1, 16, 4, 4))


def test_empty_latents(vae):
    with pytest.raises(ValueError, match=r"This LATENT is empty: \(1, 4, 0, 4\)"):
        vae.decode_tiled(torch.zeros(1, 4, 0, 4))


def test_alpha_is_dropped_and_grey_is_repeated(vae):
    image = random_picture(2, channels=4)
    assert torch.equal(encode(vae, image), encode(vae, image[..., :3]))
    grey = image[..., :1]
    assert torch.equal(encode(vae, grey), encode(vae, grey.expand(-1, -1, -1, 3)))


def test_encode_for_inpaint(vae):
    image, mask = random_picture(1, 64, 64), torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    latent = nodes.VAEEncodeForInpaint().encode(vae, image, mask, 0)[0]
    greyed = image.clone()
    greyed[:, :32] = 0.5
    assert torch.equal(latent["samples"], encode(vae, greyed))
    assert latent["noise_mask"].mean() == 0.5


# --- tiles ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mosaic():
    """IMAGE (1, 256, 256, 3): four scenes as the miniature's MoVQ was trained on."""
    scenes = draw(sample_scenes(4, torch.Generator().manual_seed(1)))
    rows = scenes.reshape(2, 2, 3, 128, 128).permute(2, 0, 3, 1, 4)
    return rows.reshape(1, 3, 256, 256).movedim(1, -1).contiguous()


def test_tiles_are_as_near_to_the_picture_as_the_whole(load_decoder, mosaic):
    """MoVQ's norms see a tile's own statistics, so the two cannot be equal.

    Measured: mean difference 0.009 in pixels, 0.016 in latents (their deviation is 1.0); from the
    picture the whole is 0.019 off, the tiled one 0.014.
    """
    vae = load_decoder("kandinsky-2-2-mini-decoder")[1]
    latents = encode(vae, mosaic)
    tiled_latents = nodes.VAEEncodeTiled().encode(vae, mosaic, 128, 32)[0]["samples"]
    assert (tiled_latents - latents).abs().mean() < 0.03 * latents.std()
    whole = decode(vae, latents)
    tiled = nodes.VAEDecodeTiled().decode(vae, {"samples": latents}, 128, 32)[0]
    assert tiled.shape == whole.shape == mosaic.shape
    assert (tiled - mosaic).abs().mean() < 1.1 * (whole - mosaic).abs().mean()
    assert 0 < (tiled - whole).abs().mean() < 0.02


def test_a_tile_that_holds_it_all_is_the_whole(vae):
    image = random_picture()
    latents = encode(vae, image)
    tiled = nodes.VAEEncodeTiled().encode(vae, image, 256, 64)[0]["samples"]
    assert oracle.max_diff(tiled, latents) < 1e-5  # the mean of three equal ones
    tiled = nodes.VAEDecodeTiled().decode(vae, {"samples": latents}, 256, 64)[0]
    assert oracle.max_diff(tiled, decode(vae, latents)) < 1e-5


def test_tiles_of_odd_sizes_and_batches(vae):
    latents = random_latents(2, 11, 14)
    tiled = nodes.VAEDecodeTiled().decode(vae, {"samples": latents}, 64, 16)[0]
    assert tiled.shape == (2, 88, 112, 3) and torch.isfinite(tiled).all()
    image = random_picture(2, 88, 115)
    tiled = nodes.VAEEncodeTiled().encode(vae, image, 64, 16)[0]["samples"]
    assert tiled.shape == (2, 4, 11, 14) and torch.isfinite(tiled).all()


# --- the range of float16 ---------------------------------------------------------------------


@pytest.fixture
def half(monkeypatch):
    """As after --fp16-vae."""
    monkeypatch.setattr(comfy.cli_args.args, "fp16_vae", True)


@pytest.fixture
def loud(models, tmp_path):
    """A decoder folder whose MoVQ leaves the range of float16 both ways, with weights that fit."""
    folder = shutil.copytree(models / DECODER, tmp_path / "loud")
    tensors = load_file(folder / "movq" / WEIGHTS)
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        tensors[name] = (tensors[name] * 60_000).clamp(-65_000, 65_000)
    save_file(tensors, folder / "movq" / WEIGHTS)
    return folder


@pytest.fixture
def rounded(loud):
    """diffusers' MoVQ in float32, with the weights as float16 holds them."""
    return VQModel.from_pretrained(loud / "movq").half().float()


def overflows(caplog) -> int:
    return caplog.text.count("leaves the range of float16")


def test_what_float16_cannot_hold_is_computed_in_float32(half, loud, rounded, caplog):
    vae, latents, image = load_vae(loud), random_latents().half(), random_picture()
    assert vae.vae_dtype == torch.float16
    assert not torch.isfinite(rounded.half().decode(latents, force_not_quantize=True).sample).all()
    wanted = rounded.float().decode(latents.float(), force_not_quantize=True).sample
    assert oracle.max_diff(decode(vae, latents), as_image(wanted)) == 0.0
    wanted = rounded.encode((image.movedim(-1, 1).contiguous() * 2 - 1).half().float()).latents
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
    vae, latents = load_vae(models / DECODER), random_latents().half()
    wanted = theirs.half().decode(latents, force_not_quantize=True).sample
    assert oracle.max_diff(decode(vae, latents), as_image(wanted.float())) == 0.0
    assert overflows(caplog) == 0


@pytest.mark.parametrize("bad", [float("nan"), 1e6])
def test_bad_latents_are_not_tried_again(half, models, caplog, bad):
    vae, latents = load_vae(models / DECODER), random_latents()
    latents[0, 0, 0, 0] = bad  # 1e6 is infinity in float16
    assert decode(vae, latents).isnan().any()
    assert overflows(caplog) == 0 and not vae.first_stage_model.wide


# --- memory -----------------------------------------------------------------------------------


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


def test_a_wide_vae_asks_for_wide_memory(half, loud):
    vae, shape = load_vae(loud), (1, 4, 64, 64)
    before = vae.memory_used_decode(shape, torch.float16)
    decode(vae, random_latents())
    assert vae.memory_used_decode(shape, torch.float16) == 2 * before
