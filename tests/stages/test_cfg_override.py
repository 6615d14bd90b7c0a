"""ComfyUI's CFG Override on a decoding stage does what a callback does in diffusers."""

import comfy_extras.nodes_custom_sampler as host_nodes
import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import box_mask, picture, reference, run, tensor_of
from helpers.ksampler import canvas, conditioning, ksampler
from helpers.module_calls import watched
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22 import nodes

pytestmark = pytest.mark.skipif(
    not hasattr(host_nodes, "CFGOverride"), reason="ComfyUI before 0.24 has no CFG Override"
)
STEPS = 6  # of the published scheduler: at 831, 665, 499, 333, 167 and 1 of 1000 noise levels
GUIDED = 2  # of them; 0.4 of the run is between 665 and 499
SIZE = dict(height=64, width=64, output_type="latent")


def override(model, cfg=1.0, start=0.4, end=1.0):
    return host_nodes.CFGOverride.execute(model, cfg, start, end).args[0]


def run_overridden(model, node, *arguments, overrides=({},), **widgets):
    """Return (latents, rows of each call of the UNet)."""
    with watched(model.model.diffusion_model.conv_in) as rows:
        for settings in overrides:
            model = override(model, **settings)
        return run(node, model, *arguments, **widgets), rows


def change_guidance(*halved: str, cfg: float = 1.0) -> dict:
    """Return a callback for what diffusers' documentation calls dynamic guidance."""

    def at_the_end_of_a_step(pipeline, index, _, tensors):
        if index != GUIDED - 1:
            return {}
        pipeline._guidance_scale = cfg
        return {name: tensors[name].chunk(2)[1] for name in halved}

    return {
        "callback_on_step_end": at_the_end_of_a_step,
        "callback_on_step_end_tensor_inputs": list(halved),
    }


@pytest.mark.parametrize("cfg, halved", [(1.0, ["image_embeds"]), (2.5, [])])
def test_text_to_image(models, load_decoder, embeds, cfg, halved):
    arguments, overrides = (embeds(2, 1), embeds(2, 2)), [dict(cfg=cfg)]
    model, _ = load_decoder(TEXT_TO_IMAGE)
    ours, rows = run_overridden(model, nodes.Decoder, *arguments, canvas(2), overrides=overrides)
    change = change_guidance(*halved, cfg=cfg)
    theirs = reference("KandinskyV22Pipeline", models / TEXT_TO_IMAGE, *arguments, **change, **SIZE)
    assert oracle.max_diff(ours, theirs) == 0.0
    assert rows == [4] * GUIDED + [2 if cfg == 1 else 4] * (STEPS - GUIDED)


def test_inpaint(models, load_decoder, embeds):
    model, vae = load_decoder(INPAINT)
    arguments, image, mask = (embeds(1, 1), embeds(1, 2)), picture(), box_mask()
    latent = {"samples": vae.encode(image)}
    ours, rows = run_overridden(model, nodes.Inpaint, *arguments, latent, mask=mask)
    theirs = reference(
        "KandinskyV22InpaintPipeline",
        models / INPAINT,
        *arguments,
        **change_guidance("image_embeds", "mask_image", "masked_image"),
        image=tensor_of(image),
        mask_image=mask.clone(),
        **SIZE,
    )
    assert oracle.max_diff(ours, theirs) == 0.0
    assert rows == [2] * GUIDED + [1] * (STEPS - GUIDED)


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_from_end_to_end_it_is_the_widget(load_decoder, embeds, cfg):
    """This uses a ControlNet stage, whose hint goes through the UNet with each half."""
    model, hint = load_decoder(DEPTH)[0], picture(seed=3)
    arguments = nodes.ControlNet, embeds(1, 1), embeds(1, 2), canvas(1)
    everywhere = [dict(cfg=cfg, start=0.0)]
    ours, _ = run_overridden(model, *arguments, overrides=everywhere, hint=hint)
    node, *inputs = arguments
    assert torch.equal(ours, run(node, model, *inputs, cfg=cfg, hint=hint))


def test_several_with_a_hint(load_decoder, embeds):
    """Guidance is only in the middle.

    If two overrides overlap, the one nearer to the stage counts.
    """
    arguments = nodes.ControlNet, embeds(2, 1), embeds(2, 2), canvas(2)
    three = [dict(start=0.0), dict(cfg=3.0, start=0.2, end=0.9), dict(start=0.4, end=0.6)]
    model, _ = load_decoder(DEPTH)
    samples, rows = run_overridden(model, *arguments, overrides=three, hint=picture(2))
    assert rows == [2, 4, 2, 4, 4, 2] and samples.isfinite().all()


def test_where_guidance_comes_in_later_the_negative_is_asked_for(load_decoder, embeds):
    model = override(load_decoder(TEXT_TO_IMAGE)[0], cfg=3.0)
    with pytest.raises(ValueError, match="With cfg 3, .* connect negative_image_embeds"):
        run(nodes.Decoder, model, embeds(1, 1), None, canvas(1), cfg=1.0)


@pytest.mark.parametrize("cfg", [float("nan"), float("inf"), None, "x"])
def test_a_cfg_that_is_no_number(load_decoder, embeds, cfg):
    model = override(load_decoder(TEXT_TO_IMAGE)[0], cfg=cfg)
    with pytest.raises(ValueError, match=r"cfg \(of CFG Override\) is .*, not a finite number"):
        run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), canvas(1))


def test_in_ksampler(load_decoder, embeds):
    """For comparison: KSampler does it itself, with the same halves."""
    model, _ = load_decoder(TEXT_TO_IMAGE)
    pair = [conditioning(embeds(1, seed)) for seed in (1, 2)]
    with watched(model.model.diffusion_model.conv_in) as rows:
        ksampler(override(model), *pair, canvas(1), steps=10, scheduler="simple")
    assert rows == [2] * 4 + [1] * 6
