"""ComfyUI's samplers refuse unsuitable inputs of our MODEL, and the error says what to use."""

import comfy.ops
import pytest
import torch
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_perpneg import PerpNeg
from helpers.decoding_stages import run
from helpers.ksampler import canvas, conditioning, half_mask, ksampler, random
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22.nodes.conditioning import Conditioning, DepthConditioning, InpaintConditioning
from kandinsky22.nodes.decoder import Decoder

import nodes as host


@pytest.mark.parametrize("wrong", [None, "x", 5, [1], [["x"]]])
def test_what_is_no_conditioning_is_named(embeds, wrong):
    good = conditioning(embeds(1, 1))
    for pair in ((wrong, good), (good, wrong)):
        with pytest.raises(ValueError, match="came where a CONDITIONING belongs. Connect Condit"):
            DepthConditioning.execute(*pair, random(1, 64, 64, 3))
        with pytest.raises(ValueError, match="came where a CONDITIONING belongs. Connect Condit"):
            InpaintConditioning.execute(*pair, canvas(), half_mask(True))
    with pytest.raises(ValueError, match="An IMAGE is .* not empty: 'x'"):
        DepthConditioning.execute(good, good, "x")
    with pytest.raises(ValueError, match="5 came where a KANDINSKY22_EMBEDS belongs"):
        Conditioning.execute(5)


@pytest.mark.parametrize("shape", [(1, 77, 768), (1, 2, 24), (1, 1, 25), (1, 24)])
def test_conditioning_for_other_models_is_refused(load_decoder, pair, shape):
    message = r"^Connect the CONDITIONING of .*takes CONDITIONING of shape \(batch, 1, 24\), not"
    with pytest.raises(ValueError, match=message):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], [[torch.zeros(shape), {}]], pair[1], canvas())


@pytest.mark.parametrize(
    "name, wanted", [(TEXT_TO_IMAGE, DEPTH), (INPAINT, DEPTH), (TEXT_TO_IMAGE, INPAINT)]
)
def test_conditioning_of_another_decoder_is_named(load_decoder, pair, name, wanted):
    latent = canvas()
    if wanted == DEPTH:
        pair = DepthConditioning.execute(*pair, torch.ones(1, 64, 64, 3)).args
    else:
        *pair, latent = InpaintConditioning.execute(*pair, latent, half_mask(True)).args
    published = wanted.replace("tiny-", "")
    with pytest.raises(
        ValueError, match=f"^In Load Decoder, choose {published} .*this MODEL is the"
    ):
        ksampler(load_decoder(name)[0], *pair, latent)


def test_batches_that_do_not_pair_are_refused(load_decoder, embeds, pair):
    with pytest.raises(ValueError, match="3 image embeddings do not pair up with the 2 latents"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(3)), pair[1], canvas(2))
    hinted = DepthConditioning.execute(*pair, random(3, 64, 64, 3)).args
    with pytest.raises(ValueError, match="3 hints do not pair up with the 2 latents"):
        ksampler(load_decoder(DEPTH)[0], *hinted, canvas(2))
    masks = torch.cat([half_mask(True), half_mask(False)])
    *both, latent = InpaintConditioning.execute(*pair, canvas(2), masks).args
    (second,) = host.LatentFromBatch().frombatch(latent, 1, 1)
    with pytest.raises(ValueError, match="2 pictures of Inpaint Conditioning do not pair up"):
        ksampler(load_decoder(INPAINT)[0], *both, second)
    with pytest.raises(ValueError, match="2 masks for one latent. Put Repeat Latent Batch before"):
        InpaintConditioning.execute(*pair, canvas(1), masks)


def test_inpaint_conditioning_with_another_latent_is_named(load_decoder, pair):
    model = load_decoder(INPAINT)[0]
    *conditions, _ = InpaintConditioning.execute(*pair, canvas(), half_mask(True)).args
    with pytest.raises(ValueError, match="was given a latent of 8×8, and the sampler one of 16×8"):
        ksampler(model, *conditions, canvas(1, 16, 8))


@pytest.mark.parametrize("channels", [3, 16])
def test_latents_of_other_models_are_refused(load_decoder, pair, channels):
    latent = {"samples": torch.ones(1, channels, 8, 8)}
    with pytest.raises(ValueError, match="this LATENT is for another model"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], *pair, latent)
    with pytest.raises(ValueError, match="this LATENT is for another model"):
        InpaintConditioning.execute(*pair, latent, half_mask(True))


def test_an_area_outside_the_latent_is_named(load_decoder, embeds):
    model, negative = load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(1, 3))
    (area,) = host.ConditioningSetArea().append(conditioning(embeds(1, 1)), 64, 64, 0, 64, 1.0)
    with pytest.raises(
        ValueError, match="no latents to denoise: 0×8. An area that is set on a CON"
    ):
        ksampler(model, area, negative, canvas())


def test_a_picture_without_its_mask(load_decoder, pair):
    model, vae = load_decoder(INPAINT)
    image = random(1, 64, 64, 3)
    positive, negative, latent = InstructPixToPixConditioning.execute(*pair, image, vae).args
    with pytest.raises(ValueError, match="A picture without its mask .*Inpaint Conditioning"):
        ksampler(model, positive, negative, latent)


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"unclip_conditioning": [{}]}, "Use Embeds From CLIP Vision and Interpolate"),
        ({"reference_latents": [torch.zeros(1, 4, 8, 8)]}, "Use Encode Image and Interpolate"),
        ({"concat_latent_image": torch.zeros(1, 4, 8, 8)}, "for the inpaint decoder"),
    ],
)
def test_what_would_do_nothing_is_refused(load_decoder, pair, extra, message):
    positive = [[pair[0][0][0], extra]]
    with pytest.raises(ValueError, match=message):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], positive, pair[1], canvas())


def test_a_controlnet_of_other_models_is_refused(load_decoder, pair):
    from comfy.cldm.cldm import ControlNet
    from comfy.controlnet import ControlNet as Control

    small = ControlNet(
        image_size=8,
        in_channels=4,
        model_channels=32,
        hint_channels=3,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_middle=1,
        context_dim=24,
        num_heads=1,
        use_spatial_transformer=True,
        operations=comfy.ops.disable_weight_init,
    )
    applied = host.ControlNetApplyAdvanced().apply_controlnet(
        *pair, Control(small), random(1, 64, 64, 3), 1.0, 0.0, 1.0
    )
    with pytest.raises(ValueError, match="no place for a ControlNet of other models"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], *applied, canvas())


@pytest.mark.parametrize(
    "patch",
    [
        lambda model: model.set_model_attn2_patch(lambda q, k, v, options: (q, k, v)),
        lambda model: model.set_model_attn2_replace(lambda q, k, v, options: q, "middle", 0),
        lambda model: model.set_model_attn1_replace(lambda q, k, v, options: q, "input", 0),
        lambda model: model.set_model_patch(lambda h, options: h, "noise_refiner"),
    ],
)
def test_patches_for_other_models_are_refused(load_decoder, pair, patch):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    patch(model)
    with pytest.raises(ValueError, match="no place for patches.* of other models"):
        ksampler(model, *pair, canvas())


@pytest.mark.parametrize("y, sides", [(64, "0×8"), (128, "0×8")])
def test_an_area_beyond_the_latent_is_named(load_decoder, embeds, y, sides):
    model, negative = load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(1, 3))
    (area,) = host.ConditioningSetArea().append(conditioning(embeds(1, 1)), 64, 64, 0, y, 1.0)
    for pair in ((area, negative), (negative, area)):
        with pytest.raises(ValueError, match=f"no latents to denoise: {sides}.*outside the latent"):
            ksampler(model, *pair, canvas())


def test_zeroed_out_conditioning_names_zero_embeds(load_decoder, pair):
    (zeros,) = host.ConditioningZeroOut().zero_out(pair[1])
    with pytest.raises(ValueError, match="^Connect Zero Embeds and Conditioning .*ZeroOut.*burnt"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], pair[0], zeros, canvas())


def test_instruct_pix_to_pix_is_named_on_every_decoder(load_decoder, pair):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    given = InstructPixToPixConditioning.execute(*pair, random(1, 64, 64, 3), vae).args
    with pytest.raises(ValueError, match="InstructPixToPixConditioning makes it so.*lower denoise"):
        ksampler(model, *given)


@pytest.mark.parametrize("other", [INPAINT, DEPTH])
def test_a_merge_of_two_kinds_of_decoder_is_refused(load_decoder, embeds, pair, other):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    (merged,) = ModelMergeSimple().merge(model, load_decoder(other)[0], 0.5)
    message = "^Merge decoders of one kind.* takes 4 channels, that of the other"
    with pytest.raises(ValueError, match=message):
        ksampler(merged, *pair, canvas())
    with pytest.raises(ValueError, match=message):
        run(Decoder, merged, embeds(1, 1), embeds(1, 2), canvas())
    assert ksampler(model, *pair, canvas()).isfinite().all()  # nothing of it is left


def test_perp_neg_without_the_hint_on_its_empty_conditioning(load_decoder, embeds, pair):
    hinted = DepthConditioning.execute(*pair, random(1, 64, 64, 3)).args
    model = PerpNeg.execute(load_decoder(DEPTH)[0], conditioning(embeds(1, 3)), 1.0).args[0]
    with pytest.raises(ValueError, match="needs a hint.*on the empty conditioning of Perp-Neg"):
        ksampler(model, *hinted, canvas())
