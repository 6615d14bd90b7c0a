"""A photograph of any size keeps its bits outside the mask, and nothing in it moves."""

import logging

import pytest
import torch
from helpers.decoding_stages import picture, run
from helpers.tiny_models import INPAINT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kandinsky22 import nodes
from kandinsky22.nodes.paste_back import PasteBack

import nodes as comfyui

PHOTOS = [(1037, 777), (1024, 768), (1080, 1350), (500, 375), (71, 69)]
sides = st.integers(64, 140)


def paste(original, repainted, mask, feather=0) -> torch.Tensor:
    return PasteBack.execute(original, repainted, mask, feather).args[0]


def middle_mask(batch: int, height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(batch, height, width)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = 1
    return mask


def kept(mask: torch.Tensor) -> torch.Tensor:
    return mask == 0


def with_cross(width: int, height: int, x: int, y: int) -> torch.Tensor:
    """Return a bright picture with a dark cross around a pixel, as IMAGE."""
    image = torch.full((1, height, width, 3), 0.85)
    image[:, y - 20 : y + 21, x - 5 : x + 6] = 0.1
    image[:, y - 5 : y + 6, x - 20 : x + 21] = 0.1
    return image


def shift_of(result: torch.Tensor, image: torch.Tensor, x: int, y: int) -> tuple[int, int]:
    """Return by how many pixels (right, down) the cross at (x, y) has moved, by the best fit."""

    def patch(picture: torch.Tensor, right: int, down: int) -> torch.Tensor:
        return picture[0, y - 22 + down : y + 23 + down, x - 22 + right : x + 23 + right]

    steps = range(-3, 4)
    errors = {
        (right, down): (patch(result, right, down) - patch(image, 0, 0)).square().sum().item()
        for right in steps
        for down in steps
    }
    return min(errors, key=errors.__getitem__)


some = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.long
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(width=sides, height=sides, batch=st.sampled_from([1, 3]), other=st.booleans())
def test_inpaint_keeps_what_the_mask_keeps(load_decoder, embeds, width, height, batch, other):
    """Masks have the photo's size and another one. Batches have 1 and 3 items."""
    model, vae = load_decoder(INPAINT)
    image = picture(batch, height, width)
    mask = middle_mask(1, 100, 90) if other else middle_mask(batch, height, width)
    latent = {"samples": vae.encode(image)}
    assert latent["samples"].shape[-2:] == (-(-height // 8), -(-width // 8))
    samples = run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, steps=2, mask=mask)
    result = paste(image, vae.decode(samples), mask)
    used = torch.nn.functional.interpolate(
        mask[:, None], (height, width), mode="bilinear", antialias=True
    )[:, 0].expand(batch, -1, -1)
    assert result.shape == image.shape
    assert torch.equal(result[kept(used)], image[kept(used)])
    assert not torch.equal(result, image)


@pytest.mark.long
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    width=sides,
    height=sides,
    pads=st.tuples(*[st.integers(0, 40)] * 4).filter(any),
    seed=st.just(1),
)
def test_outpaint_keeps_the_photo(load_decoder, embeds, width, height, pads, seed):
    """The padding can be any, also odd. No grey edge is left, and the photo does not move."""
    model, vae = load_decoder(INPAINT)
    image = picture(1, height, width, seed)
    padded, mask = comfyui.NODE_CLASS_MAPPINGS["ImagePadForOutpaint"]().expand_image(
        image, *pads, 0
    )
    latent = {"samples": vae.encode(padded)}
    samples = run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, steps=2, mask=mask)
    decoded = vae.decode(samples)
    result = paste(padded, decoded, mask)
    left, top, _, _ = pads
    assert torch.equal(result[:, top : top + height, left : left + width], image)
    outside = mask[0] == 1
    cut = decoded[:, : padded.shape[1], : padded.shape[2]]
    assert torch.equal(result[0][outside], cut[0][outside])


@pytest.mark.long
@pytest.mark.parametrize("width, height", PHOTOS)
def test_photos_of_real_sizes(load_decoder, width, height):
    """A photo is only extended to the right and below, and the kept part keeps its bits."""
    vae = load_decoder(INPAINT)[1]
    image, mask = picture(1, height, width), middle_mask(1, height, width)
    latents = vae.encode(image)
    right, below = -width % 8, -height % 8
    extended = torch.nn.functional.pad(
        image.movedim(-1, 1), (0, right, 0, below), mode="replicate"
    ).movedim(1, -1)
    assert torch.equal(latents, vae.encode(extended.contiguous()))
    decoded = vae.decode(latents)
    result = paste(image, decoded, mask)
    assert torch.equal(result[kept(mask)], image[kept(mask)])
    assert torch.equal(result[~kept(mask)], decoded[:, :height, :width][~kept(mask)])


@pytest.mark.parametrize("width, height", [(135, 133), (93, 99), (157, 149), (128, 128)])
def test_a_photo_stays_where_it_was(models, load_decoder, width, height):
    """After the trained MoVQ, a cross is at the same pixel."""
    vae = load_decoder("kandinsky-2-2-mini-decoder-inpaint")[1]
    for x, y in ((29, 30), (width - 30, height - 31)):
        image, mask = with_cross(width, height, x, y), torch.zeros(1, height, width)
        mask[:, y - 26 : y + 27, x - 26 : x + 27] = 1
        result = paste(image, vae.decode(vae.encode(image)), mask)
        assert shift_of(result, image, x, y) == (0, 0)
        assert torch.equal(result[kept(mask)], image[kept(mask)])


def test_grey_pictures_and_alpha(load_decoder):
    vae = load_decoder(INPAINT)[1]
    mask = middle_mask(1, 69, 71)
    grey, rgba = picture(1, 69, 71)[..., :1], torch.rand(1, 69, 71, 4)
    result = paste(grey, vae.decode(vae.encode(grey)), mask)
    assert torch.equal(result[kept(mask)], grey.expand(-1, -1, -1, 3)[kept(mask)])
    result = paste(rgba, vae.decode(vae.encode(rgba)), mask)
    assert torch.equal(result[kept(mask)], rgba[kept(mask)])
    assert torch.equal(result[..., 3], rgba[..., 3])


@pytest.mark.parametrize("feather", [1, 2, 7, 16])
def test_feather_blends_outside_of_the_mask(feather):
    original, repainted = torch.zeros(1, 96, 96, 3), torch.ones(1, 96, 96, 3)
    mask = torch.zeros(1, 96, 96)
    mask[:, 40:56, 40:56] = 1
    result = paste(original, repainted, mask, feather)[0, ..., 0]
    assert (result[40:56, 40:56] == 1).all()
    row = result[48, 56:]
    assert (row[feather:] == 0).all() and (row[:-1] >= row[1:]).all()
    assert 0 < row[0] < 1 and row[feather - 1] > 0
    assert (result[: 40 - feather] == 0).all() and (result[:, : 40 - feather] == 0).all()


def test_each_item_of_a_batch_is_kept():
    original, mask = picture(1, 64, 64), middle_mask(1, 64, 64)
    repainted = picture(3, 64, 64, seed=1)
    result = paste(original, repainted, mask)
    assert len(result) == 3
    for i in range(3):
        assert torch.equal(result[i][mask[0] == 1], repainted[i][mask[0] == 1])
        assert torch.equal(result[i][mask[0] == 0], original[0][mask[0] == 0])


def test_a_mask_of_another_size_is_resized_and_said(caplog):
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        paste(picture(1, 64, 72), picture(1, 64, 72, 1), middle_mask(1, 128, 128))
    assert "resizes a mask of 128×128 to 72×64" in caplog.text


@pytest.mark.parametrize(
    "original, repainted, mask, feather, message",
    [
        ((2, 64, 64, 3), (3, 64, 64, 3), (1, 64, 64), 0, "original has 2, repainted has 3"),
        ((1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64, 1), 0, r"A MASK is .*\(1, 64, 64, 1\)"),
        ((1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64, 3), 0, r"A MASK is .*\(1, 64, 64, 3\)"),
        ((1, 69, 71, 3), (1, 64, 64, 3), (1, 69, 71), 0, "is 64×64, and original is 71×69"),
        ((1, 64, 64, 3), (1, 64, 72, 3), (1, 64, 64), 0, "is 72×64, and original is 64×64"),
        ((1, 64, 64), (1, 64, 64, 3), (1, 64, 64), 0, "An IMAGE is"),
        ((1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64), -1, "feather is -1"),
        ((1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64), 1.5, "feather is 1.5"),
    ],
)
def test_what_does_not_fit_is_said(original, repainted, mask, feather, message):
    with pytest.raises(ValueError, match=message):
        paste(torch.rand(original), torch.rand(repainted), torch.zeros(mask), feather)


def test_a_picture_smaller_than_a_latent_pixel(load_decoder):
    with pytest.raises(ValueError, match="9×7 pixels is too small to encode"):
        load_decoder(INPAINT)[1].encode(picture(1, 7, 9))


def test_an_empty_mask_is_said(load_decoder, embeds, caplog):
    """Load Image gives a mask of 64×64 for a picture without transparency."""
    model, vae = load_decoder(INPAINT)
    latent = {"samples": vae.encode(picture(1, 80, 80))}
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        mask = torch.zeros(1, 64, 64)
        run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, steps=2, mask=mask)
    assert "The mask of item 0 is empty" in caplog.text


def test_guidance_that_would_cancel_itself_is_refused(load_decoder, embeds):
    """A bypassed Prior Emb2Emb gives both sockets the same embeddings."""
    model, same = load_decoder("kandinsky-2-2-tiny-decoder")[0], embeds(1, 1)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match="are the same embeddings"):
        run(nodes.Decoder, model, same, same, latent)
    # The negative embeddings are not used there.
    run(nodes.Decoder, model, same, same, latent, cfg=1.0)


@pytest.mark.parametrize("node", ["VAEEncode", "VAEEncodeTiled", "VAEEncodeForInpaint"])
def test_encoding_extends_and_never_crops(load_decoder, node):
    vae = load_decoder(INPAINT)[1]
    image = picture(1, 133, 135)
    extended = torch.nn.functional.pad(image.movedim(-1, 1), (0, 1, 0, 3), mode="replicate")
    more = {"VAEEncodeTiled": (64, 16), "VAEEncodeForInpaint": (torch.zeros(1, 133, 135), 0)}
    more_extended = more | {"VAEEncodeForInpaint": (torch.zeros(1, 136, 136), 0)}
    encode = comfyui.NODE_CLASS_MAPPINGS[node]().encode
    ours = encode(vae, image, *more.get(node, ()))[0]["samples"]
    extended = extended.movedim(1, -1).contiguous()
    wanted = encode(vae, extended, *more_extended.get(node, ()))[0]["samples"]
    assert ours.shape == (1, 4, 17, 17)
    assert torch.equal(ours, wanted)
