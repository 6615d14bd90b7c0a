"""MoVQ as ComfyUI's VAE equals diffusers' MoVQ, whole and in tiles, at any size and batch."""

import pytest
import torch
from helpers import oracle
from helpers.vae_nodes import as_image, decode, encode, random_latents, random_picture
from kandinsky22.utils.comfyui.vae import load_vae

import nodes
from tools.miniature.shapes import draw, sample_scenes

pytestmark = pytest.mark.long


@pytest.mark.parametrize("batch", [1, 3])
def test_the_nodes_equal_diffusers(vae, theirs, batch):
    image, latents = random_picture(batch, 64, 96), random_latents(batch, 8, 12)
    wanted = theirs.encode(image.movedim(-1, 1) * 2 - 1).latents
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


def test_odd_sizes_lose_nothing(vae):
    """The picture is extended by its edge to the right and below, up to multiples of 8."""
    image = random_picture(1, 67, 94)
    extended = torch.nn.functional.pad(image.movedim(-1, 1), (0, 2, 0, 5), mode="replicate")
    wanted = encode(vae, extended.movedim(1, -1).contiguous())
    assert torch.equal(encode(vae, image), wanted)
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


@pytest.fixture(scope="module")
def mosaic():
    """IMAGE (1, 256, 256, 3): four scenes like those that trained the miniature's MoVQ."""
    scenes = draw(sample_scenes(4, torch.Generator().manual_seed(1)))
    rows = scenes.reshape(2, 2, 3, 128, 128).permute(2, 0, 3, 1, 4)
    return rows.reshape(1, 3, 256, 256).movedim(1, -1).contiguous()


def test_tiles_are_as_near_to_the_picture_as_the_whole(load_decoder, mosaic):
    """MoVQ's norms see a tile's own statistics, so the two cannot be equal.

    Measured: the mean difference is 0.009 in pixels, and 0.016 in latents, whose deviation is 1.0.
    The whole differs from the picture by 0.019, and the tiled one by 0.014.
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
    assert tiled.shape == (2, 4, 11, 15) and torch.isfinite(tiled).all()


@pytest.mark.parametrize("size", [(64, 64), (72, 40)])
def test_vae_equals_movq(models, load_decoder, size):
    _, vae = load_decoder()
    movq = oracle.pipeline("KandinskyV22Pipeline", models / "kandinsky-2-2-tiny-decoder").movq
    latents = torch.randn(2, 4, size[0] // 8, size[1] // 8)
    pixels = movq.decode(latents, force_not_quantize=True).sample
    wanted = ((pixels + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert oracle.max_diff(vae.decode(latents), wanted) == 0.0

    image = torch.rand(2, *size, 3)
    wanted = movq.encode(image.movedim(-1, 1) * 2 - 1).latents
    assert oracle.max_diff(vae.encode(image), wanted) == 0.0


def test_vae_loads_without_a_warning(models, caplog):

    load_vae(models / "kandinsky-2-2-tiny-decoder")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
