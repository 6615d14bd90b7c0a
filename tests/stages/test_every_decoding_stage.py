"""Img2Img, Inpaint and the ControlNet stages against diffusers' pipelines."""

import logging
import re

import comfy.hooks
import diffusers
import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import (
    CONDITIONS,
    STAGES,
    as_pixels,
    box_mask,
    each_stage,
    picture,
    reference,
    run,
    tensor_of,
)
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22.nodes import decoder as nodes
from kandinsky22.utils.kandinsky.values import ImageEmbeds


@pytest.mark.parametrize("cfg, batch", CONDITIONS)
@pytest.mark.parametrize("denoise", [0.3, 0.5, 1.0])
def test_img2img_equals_the_pipeline(models, load_decoder, embeds, cfg, batch, denoise):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    image = picture(batch)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    latent = {"samples": vae.encode(image)}
    ours = run(nodes.Img2Img, model, positive, negative, latent, cfg=cfg, denoise=denoise)
    theirs = reference(
        *("KandinskyV22Img2ImgPipeline", models / TEXT_TO_IMAGE, positive, negative),
        cfg=cfg,
        image=tensor_of(image),
        strength=denoise,
        height=64,
        width=64,
        output_type="latent",
    )
    assert oracle.max_diff(ours, theirs) == 0.0


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("size", [(64, 64), (128, 64)])
def test_inpaint_equals_the_pipeline(models, load_decoder, embeds, cfg, size):
    model, vae = load_decoder(INPAINT)
    image, mask = picture(1, *size), box_mask(1, *size)
    latent = {"samples": vae.encode(image)}
    ours = run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, cfg=cfg, mask=mask)
    theirs = reference(
        *("KandinskyV22InpaintPipeline", models / INPAINT, embeds(1, 1), embeds(1, 2)),
        cfg=cfg,
        image=tensor_of(image),
        mask_image=mask.clone(),
        height=size[0],
        width=size[1],
        output_type="latent",
    )
    assert oracle.max_diff(ours, theirs) == 0.0


@pytest.mark.parametrize("cfg, batch", CONDITIONS)
def test_controlnet_equals_the_pipeline(models, load_decoder, embeds, cfg, batch):
    model, _ = load_decoder(DEPTH)
    hint = picture(batch, seed=5)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    latent = {"samples": torch.zeros(batch, 4, 8, 8)}
    ours = run(nodes.ControlNet, model, positive, negative, latent, cfg=cfg, hint=hint)
    theirs = reference(
        *("KandinskyV22ControlnetPipeline", models / DEPTH, positive, negative),
        cfg=cfg,
        hint=hint.movedim(-1, 1).contiguous(),
        height=64,
        width=64,
        output_type="pt",
    )
    assert oracle.max_diff(as_pixels(ours, models / DEPTH), theirs) == 0.0


@pytest.mark.parametrize("cfg, batch", CONDITIONS)
@pytest.mark.parametrize("denoise", [0.34, 0.5])
def test_controlnet_img2img_equals_the_pipeline(models, load_decoder, embeds, cfg, batch, denoise):
    model, vae = load_decoder(DEPTH)
    image, hint = picture(batch), picture(batch, seed=5)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    latent = {"samples": vae.encode(image)}
    ours = run(
        *(nodes.ControlNetImg2Img, model, positive, negative, latent),
        cfg=cfg,
        hint=hint,
        denoise=denoise,
    )
    theirs = reference(
        *("KandinskyV22ControlnetImg2ImgPipeline", models / DEPTH, positive, negative),
        cfg=cfg,
        image=tensor_of(image),
        hint=hint.movedim(-1, 1).contiguous(),
        strength=denoise,
        height=64,
        width=64,
        output_type="pt",
    )
    pixels = (as_pixels(ours, models / DEPTH) * 0.5 + 0.5).clamp(0, 1)
    assert oracle.max_diff(pixels, theirs) == 0.0


class ConsistentDDIM(diffusers.DDIMScheduler):
    """The noise is the one that leads to the clipped picture; see test_reference_faults.py."""

    def step(self, *args, **kwargs):
        return super().step(*args, **kwargs, use_clipped_model_output=True)


def test_ddim_equals_the_pipeline(models, load_decoder, embeds):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": vae.encode(picture())}
    ours = run(
        *(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent),
        denoise=0.5,
        sampler_name="ddim",
    )
    pipeline = oracle.pipeline("KandinskyV22Img2ImgPipeline", models / TEXT_TO_IMAGE)
    theirs = reference(
        *("KandinskyV22Img2ImgPipeline", models / TEXT_TO_IMAGE, embeds(1, 1), embeds(1, 2)),
        scheduler=ConsistentDDIM.from_config(pipeline.scheduler.config),
        image=tensor_of(picture()),
        strength=0.5,
        height=64,
        width=64,
        output_type="latent",
    )
    assert oracle.max_diff(ours, theirs) == 0.0


@each_stage
def test_batch_item_alone(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    model, _ = load_decoder(name)
    samples = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    positive, negative = embeds(3, 1), embeds(1, 2)
    hints_and_masks = {
        key: torch.cat([value, value.flip(1), value.flip(2)])
        for key, value in widgets.items()
        if key != "denoise"
    }
    batch = widgets | hints_and_masks
    together = run(node, model, positive, negative, {"samples": samples}, seed=100, **batch)
    for i in range(3):
        item = widgets | {key: value[i : i + 1] for key, value in hints_and_masks.items()}
        one = ImageEmbeds(positive.tensor[i : i + 1])
        latent = {"samples": samples[i : i + 1]}
        alone = run(node, model, one, negative, latent, seed=100 + i, **item)
        assert oracle.max_diff(together[i : i + 1], alone) < 1e-4


@each_stage
@pytest.mark.parametrize("size", [(9, 9), (7, 12)])
def test_sizes_off_the_grid(load_decoder, embeds, node, size):
    name, widgets = STAGES[node]
    samples = run(
        *(node, load_decoder(name)[0], embeds(1, 1), embeds(1, 2)),
        {"samples": torch.randn(1, 4, *size)},
        **widgets,
    )
    assert samples.shape == (1, 4, *size)
    assert torch.isfinite(samples).all()


@each_stage
@pytest.mark.parametrize("wrong", [TEXT_TO_IMAGE, INPAINT, DEPTH])
def test_every_mix_up_of_decoders_is_named(load_decoder, embeds, node, wrong):
    right, widgets = STAGES[node]
    arguments = (node, load_decoder(wrong)[0], embeds(1, 1), embeds(1, 2))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    if wrong == right:
        assert run(*arguments, latent, **widgets).shape == (1, 4, 8, 8)
        return
    published = re.escape(right.replace("tiny-", "") + " (or")
    with pytest.raises(ValueError, match=f"Choose {published}"):
        run(*arguments, latent, **widgets)


@each_stage
def test_inputs_are_left_as_they_were(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    tensors = [latent["samples"], *(v for v in widgets.values() if torch.is_tensor(v))]
    before = [tensor.clone() for tensor in tensors]
    run(node, load_decoder(name)[0], embeds(1, 1), embeds(1, 2), latent, **widgets)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


@each_stage
@pytest.mark.parametrize(
    "sampler",
    [
        "euler",
        "euler_ancestral",
        "heun",
        "dpm_2",
        "dpm_2_ancestral",
        "lms",
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "uni_pc",
        "deis",
        "ddim",
    ],
)
def test_every_sampler_runs_every_stage(load_decoder, embeds, node, sampler):
    name, widgets = STAGES[node]
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    samples = run(
        *(node, load_decoder(name)[0], embeds(1, 1), embeds(1, 2), latent),
        sampler_name=sampler,
        **widgets,
    )
    assert torch.isfinite(samples).all() and samples.std() > 0


# --- masks -----------------------------------------------------------------------------------


def inpaint(load_decoder, embeds, mask, samples=None, **latent):
    model, _ = load_decoder(INPAINT)
    samples = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        if samples is None
        else samples
    )
    result = run(
        *(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), {"samples": samples} | latent),
        mask=mask,
    )
    return samples, result


def test_one_is_repainted_and_zero_stays(load_decoder, embeds):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 40:] = 1
    before, after = inpaint(load_decoder, embeds, mask)
    assert torch.equal(before[..., :4], after[..., :4])  # 4: the border of one is repainted too
    assert (before[..., 5:] - after[..., 5:]).abs().min() > 0


def test_empty_mask_changes_nothing_and_full_mask_everything(load_decoder, embeds):
    before, after = inpaint(load_decoder, embeds, torch.zeros(1, 64, 64))
    assert torch.equal(before, after)
    before, after = inpaint(load_decoder, embeds, torch.ones(1, 64, 64))
    assert (before - after).abs().min() > 0


def test_mask_of_another_size_is_resized(load_decoder, embeds):
    _, same = inpaint(load_decoder, embeds, box_mask())
    large = torch.nn.functional.interpolate(box_mask()[None], (256, 256), mode="nearest")[0]
    _, resized = inpaint(load_decoder, embeds, large)
    assert torch.equal(same, resized)
    _, without_batch = inpaint(load_decoder, embeds, box_mask()[0])
    assert torch.equal(same, without_batch)


def test_thin_mask_warns(load_decoder, embeds, caplog):
    mask = torch.zeros(1, 64, 64)
    mask[:, 3, :] = 1  # between the rows that nearest resizing reads
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        before, after = inpaint(load_decoder, embeds, mask)
    assert "so thin that nothing of it is left at 8×8" in caplog.text
    assert torch.equal(before, after)


def test_prepared_mask_equals_the_pipelines(load_decoder):
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_inpainting import prepare_mask
    from kandinsky22.utils.kandinsky.tensors import keep_from_mask

    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        mask = (torch.rand(2, 13, 17, generator=generator) > 0.9).float()
        assert torch.equal(keep_from_mask(mask, 13, 17), prepare_mask(1 - mask[:, None]))


@pytest.mark.parametrize("node", [nodes.Decoder, nodes.Img2Img], ids=lambda node: node.__name__)
def test_noise_mask_keeps_the_rest(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    samples = torch.randn(1, 4, 8, 8)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    latent = {"samples": samples, "noise_mask": mask}
    result = run(node, load_decoder(name)[0], embeds(1, 1), embeds(1, 2), latent, **widgets)
    assert torch.equal(result[..., :4], samples[..., :4])
    assert (result[..., 4:] - samples[..., 4:]).abs().min() > 0


def test_a_noise_mask_is_repeated_or_cut_to_the_batch(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    masks = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    latent = {"samples": torch.randn(3, 4, 8, 8), "noise_mask": masks}
    result = run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=0.5)
    kept = [torch.equal(result[i], latent["samples"][i]) for i in range(3)]
    assert kept == [True, False, True]


# --- batch_index ------------------------------------------------------------------------------


def test_the_output_says_which_noise_it_had(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    settings = dict(seed=7, steps=4, cfg=1.0, sampler_name="ddpm", scheduler="checkpoint")

    def indices(latent, batch):
        result = nodes.Decoder.execute(model, embeds(batch), latent, **settings).args[0]
        return result.get("batch_index")

    canvas = torch.zeros(1, 4, 8, 8)
    assert indices({"samples": canvas}, 1) is None
    assert indices({"samples": canvas}, 3) == [0, 0, 0]
    assert indices({"samples": canvas, "batch_index": [4]}, 3) == [4, 4, 4]
    assert indices({"samples": canvas.repeat(2, 1, 1, 1), "batch_index": [4, 9]}, 2) == [4, 9]
    with pytest.raises(ValueError, match="2 items and a batch_index of 1"):
        indices({"samples": canvas.repeat(2, 1, 1, 1), "batch_index": [4]}, 2)


# --- what the MODEL carries -------------------------------------------------------------------


def cfg_function(model):
    model.set_model_sampler_cfg_function(lambda arguments: arguments["cond"])


def post_cfg_function(model):
    model.set_model_sampler_post_cfg_function(lambda arguments: arguments["denoised"])


def function_wrapper(model):
    model.set_model_unet_function_wrapper(lambda apply, arguments: None)


def attention_patch(model):
    model.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))


def sampling_patch(model):
    model.add_object_patch("model_sampling", model.model.model_sampling)


def easy_cache(model):
    from comfy.patcher_extension import WrappersMP

    model.add_wrapper(WrappersMP.OUTER_SAMPLE, lambda executor, *args: executor(*args))


def hook(model):
    weight = "diffusion_model.conv_in.weight"
    patch = {weight: (torch.ones_like(model.model.state_dict()[weight]),)}
    model.add_hook_patches(comfy.hooks.WeightHook(), patch)


@pytest.mark.parametrize(
    "change, named",
    [
        (cfg_function, "sampler_cfg_function"),
        (post_cfg_function, "sampler_post_cfg_function"),
        (function_wrapper, "model_function_wrapper"),
        (sampling_patch, "another model_sampling"),
        (easy_cache, "outer_sample wrapper"),
        (hook, "hooks"),
    ],
)
def test_what_only_samplers_honour_is_refused(load_decoder, embeds, change, named):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    change(model)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=f"cannot honour: .*{named}.*Use KSampler"):
        run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)


def test_attention_patches_are_refused_everywhere(load_decoder, embeds):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    attention_patch(model)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match="no place for patches of other models.*Take that node"):
        run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)


@pytest.mark.parametrize("kind", ["APPLY_MODEL", "DIFFUSION_MODEL"])
def test_model_wrappers_are_honoured(load_decoder, embeds, kind):
    from comfy.patcher_extension import WrappersMP

    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    calls = []

    def wrapper(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    model.add_wrapper(getattr(WrappersMP, kind), wrapper)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    ours = run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)
    assert len(calls) == 6
    plain = load_decoder(TEXT_TO_IMAGE)[0]
    assert torch.equal(ours, run(nodes.Decoder, plain, embeds(1, 1), embeds(1, 2), latent))


def test_weight_patches_are_honoured_and_taken_back(load_decoder, embeds):
    plain = load_decoder(TEXT_TO_IMAGE)[0]
    model = plain.clone()
    key = "diffusion_model.conv_in.weight"
    shape = plain.model.diffusion_model.conv_in.weight.shape
    model.add_patches({key: ("diff", (torch.full(shape, 0.1),))}, 1.0)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    before = run(nodes.Decoder, plain, embeds(1, 1), embeds(1, 2), latent)
    patched = run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)
    assert oracle.max_diff(before, patched) > 0.01
    assert torch.equal(run(nodes.Decoder, plain, embeds(1, 1), embeds(1, 2), latent), before)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [0.1, 0.16])
def test_too_little_denoise_is_refused(load_decoder, embeds, denoise):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=f"6 steps .* of {denoise:g} leave no step"):
        run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=denoise)


def test_nan_is_not_passed_on(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": torch.full((1, 4, 8, 8), float("nan"))}
    with pytest.raises(ValueError, match="came out with NaN"):
        run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=0.5)


@pytest.mark.parametrize(
    "node, change, message",
    [
        (nodes.Inpaint, dict(mask=None), "mask is None, and the inpaint decoder"),
        (nodes.ControlNet, dict(hint=None), "hint is None, and the depth decoder"),
        (nodes.Inpaint, dict(mask="x"), "A MASK is .* not empty: 'x'"),
        (nodes.Inpaint, dict(mask=torch.zeros(1, 0, 24)), r"not empty: \(1, 0, 24\)"),
        (nodes.ControlNet, dict(hint="x"), "An IMAGE is .* not empty: 'x'"),
        (nodes.ControlNet, dict(hint=torch.ones(1, 8, 8, 2)), "has 1, 3 or 4 channels, not 2"),
        (nodes.ControlNet, dict(hint=torch.zeros(1, 0, 64, 3)), r"not empty: \(1, 0, 64, 3\)"),
        (nodes.Img2Img, dict(denoise="x"), "denoise.* is 'x', not a finite number"),
    ],
)
def test_what_only_some_stages_take(load_decoder, embeds, node, change, message):
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    model, _ = load_decoder(STAGES[node][0])
    with pytest.raises(ValueError, match=message):
        run(node, model, embeds(1, 1), embeds(1, 2), latent, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(latent={"samples": torch.zeros(1, 4, 0, 8)}), r"empty: \(1, 4, 0, 8\)"),
        (dict(positive="x"), "image_embeds is 'x', not image embeddings"),
        (dict(latent=5), "not 5: this LATENT is for another model"),
        (dict(model="x"), "This MODEL is a str"),
        (dict(latent={"samples": torch.zeros(1, 4, 2, 8, 8)}), r"not \(1, 4, 2, 8, 8\)"),
    ],
)
def test_values_of_another_type_are_named(load_decoder, embeds, change, message):
    values = dict(model=load_decoder(TEXT_TO_IMAGE)[0], positive=embeds(1, 1))
    values |= dict(latent={"samples": torch.zeros(1, 4, 8, 8)}) | change
    with pytest.raises(ValueError, match=message):
        run(nodes.Decoder, values["model"], values["positive"], embeds(1, 2), values["latent"])


def test_batches_that_do_not_pair_are_refused(load_decoder, embeds):
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    arguments = (nodes.Inpaint, load_decoder(INPAINT)[0], embeds(2, 1), embeds(1, 2), latent)
    with pytest.raises(ValueError, match="image_embeds has 2, latent has 2, mask has 3"):
        run(*arguments, mask=box_mask(3))
    arguments = (nodes.ControlNet, load_decoder(DEPTH)[0], embeds(2, 1), embeds(1, 2), latent)
    with pytest.raises(ValueError, match="image_embeds has 2, latent has 2, hint has 3"):
        run(*arguments, hint=picture(3))


def test_hint_of_another_size_is_resized(load_decoder, embeds):
    model, _ = load_decoder(DEPTH)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    small = torch.zeros(1, 64, 64, 3)
    small[:, :32] = 1  # white above black: a hint turned or cut would not be the same
    large = small.repeat_interleave(4, 1).repeat_interleave(2, 2)
    arguments = (nodes.ControlNet, model, embeds(1, 1), embeds(1, 2), latent)
    same, turned = run(*arguments, hint=small), run(*arguments, hint=small.movedim(1, 2))
    assert oracle.max_diff(run(*arguments, hint=large), same) < 0.05
    assert oracle.max_diff(turned, same) > 0.1
