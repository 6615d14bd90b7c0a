"""ComfyUI's patches of the UNet, in KSampler and in a stage, equal the same computed by hand."""

import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy_extras import nodes_freelunch, nodes_nag, nodes_pag, nodes_sag, nodes_slg
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_tomesd import TomePatchModel
from helpers.ksampler import canvas
from helpers.patch_setting import BATCH, CFG, STEPS, Setting, agree
from helpers.tiny_models import DEPTH, TEXT_TO_IMAGE
from kandinsky22.nodes.optimize import Optimize


@pytest.fixture(params=[TEXT_TO_IMAGE, DEPTH])
def setting(request, models, load_decoder, embeds):
    return Setting(models, load_decoder, embeds, request.param)


@pytest.fixture
def larger(models, load_decoder, embeds):
    return Setting(models, load_decoder, embeds, TEXT_TO_IMAGE, side=16)


def same(x, *_):
    return x


@pytest.mark.parametrize("attention", ["sdpa", "host", "plain"])
def test_patches_that_change_nothing_change_no_bit(setting, attention):
    """Our own loop over the blocks equals diffusers' forward."""
    plain = Optimize.execute(setting.model, attention, False).args[0]
    expected = setting.ksampler(plain)
    patched = plain.clone()
    patched.set_model_input_block_patch(same)
    patched.set_model_input_block_patch_after_skip(same)
    patched.set_model_output_block_patch(lambda h, skip, options: (h, skip))
    assert torch.equal(setting.ksampler(patched), expected)
    assert agree(setting.stage(patched), setting.stage(plain))
    patched.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))
    patched.set_model_attn1_output_patch(same)
    assert agree(setting.ksampler(patched), expected)


def test_addresses_are_comfyuis(setting):
    model, seen = setting.model.clone(), []

    def note(h, options):
        seen.append((options["block"], options["n_heads"], options["original_shape"][1:]))
        return h

    model.set_model_attn1_output_patch(note)
    setting.ksampler(model)
    blocks = [("input", 3), ("middle", 0), ("output", 0), ("output", 1)]
    channels = 4
    assert seen == [(block, 4, [channels, 8, 8]) for block in blocks] * STEPS


# --- attention ------------------------------------------------------------------------------------


class OwnValue:
    """Perturbed attention: each pixel keeps its own value."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        flat = hidden_states.flatten(2)
        value = attn.to_v(attn.group_norm(flat).transpose(1, 2))
        return attn.to_out[0](value).transpose(1, 2).reshape(hidden_states.shape) + hidden_states


def test_perturbed_attention_guidance(setting):
    middle = setting.unet.mid_block.attentions[0]

    def guidance(predict, *_):
        usual = middle.processor
        middle.set_processor(OwnValue())
        try:
            perturbed = predict(setting.positive)
        finally:
            middle.set_processor(usual)
        return setting.guide(predict) + 3.0 * (predict(setting.positive) - perturbed)

    expected = setting.by_hand(guidance)
    patched = nodes_pag.PerturbedAttentionGuidance.execute(setting.model, 3.0).args[0]
    assert agree(setting.ksampler(patched), expected)
    assert agree(setting.stage(patched), expected)
    assert not agree(setting.by_hand(setting.guide), expected)


class Recorded:
    """Joint attention that records how much its pixels attend to each pixel."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        x = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        heads = [
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (
                attn.to_q(x),
                torch.cat([attn.add_k_proj(encoder_hidden_states), attn.to_k(x)], 1),
                torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(x)], 1),
            )
        ]
        scores = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5
        tokens = encoder_hidden_states.shape[1]
        self.map = scores[..., tokens:].softmax(-1).flatten(0, 1)
        out = (scores.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
        return attn.to_out[0](out).mT.reshape(hidden_states.shape) + hidden_states


def test_self_attention_guidance(larger):
    middle, recorded = larger.unet.mid_block.attentions[0], Recorded()
    usual = middle.processor

    def guidance(predict, x, sigma):
        middle.set_processor(recorded)
        without = predict(larger.negative)
        middle.set_processor(usual)
        guided = larger.guide(predict)
        finished = x - sigma * without
        blurred = nodes_sag.create_blur_map(finished, recorded.map, 2.0, 1.0)
        degraded = blurred + x - finished
        scaled = degraded / (sigma**2 + 1) ** 0.5
        again = degraded - sigma * predict(larger.negative, scaled)
        return guided - 0.5 * (blurred - again) / sigma

    expected = larger.by_hand(guidance)
    patched = nodes_sag.SelfAttentionGuidance.execute(larger.model, 0.5, 2.0).args[0]
    assert agree(larger.ksampler(patched), expected)
    assert agree(larger.stage(patched), expected)
    assert not agree(larger.by_hand(larger.guide), expected)


class Skipped:
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return hidden_states


def test_skip_layer_guidance(setting):
    """Its layers are those of joint attention, counted from the first.

    Layer 1 is the middle here.
    """
    middle = setting.unet.mid_block.attentions[0]

    def guidance(predict, *_):
        usual = middle.processor
        middle.set_processor(Skipped())
        try:
            skipped = predict(setting.positive)
        finally:
            middle.set_processor(usual)
        return setting.guide(predict) + 2.0 * (predict(setting.positive) - skipped)

    expected = setting.by_hand(guidance)
    node = nodes_slg.SkipLayerGuidanceDiT
    patched = node.execute(setting.model, 2.0, 0.0, 1.0, "1", "").args[0]
    assert agree(setting.ksampler(patched), expected)
    assert agree(setting.stage(patched), expected)
    simple = nodes_slg.SkipLayerGuidanceDiTSimple.execute(setting.model, 0.0, 1.0, "1", "").args[0]
    assert agree(setting.stage(simple), setting.ksampler(simple))
    assert not agree(setting.stage(simple), setting.stage(setting.model))


def test_normalized_attention_guidance(setting):
    patched = nodes_nag.NAGuidance.execute(setting.model, 5.0, 0.5, 1.5).args[0]
    theirs = setting.ksampler(patched)
    assert agree(setting.stage(patched), theirs)
    assert not agree(theirs, setting.ksampler(setting.model))


# --- between the blocks ---------------------------------------------------------------------------


def fourier(skip, scale):
    """Return FreeU's filter: low frequencies are scaled, in a box of 2 × 2 around the middle."""
    spectrum = torch.fft.fft2(skip.float())
    for y in (0, -1):
        for x in (0, -1):
            spectrum[..., y, x] *= scale
    return torch.fft.ifft2(spectrum).real


@pytest.mark.parametrize("version", [1, 2])
def test_freeu(setting, version):
    """The comparison uses hooks on the residual layers of diffusers' UNet: (h, skip)."""
    b = {64: 1.3, 32: 1.4}
    s = {64: 0.9, 32: 0.2}
    skips = iter([])

    def before(module, arguments):
        joined, *rest = arguments
        width = next(skips)
        h, skip = joined[:, :-width].clone(), joined[:, -width:]
        channels = h.shape[1]
        factor = b[channels]
        if version == 2:
            mean = h.mean(1, keepdim=True)
            low, high = (mean.flatten(1).aminmax(dim=1)[i].view(-1, 1, 1, 1) for i in (0, 1))
            factor = 1 + (factor - 1) * (mean - low) / (high - low)
        h[:, : channels // 2] = h[:, : channels // 2] * factor
        return (torch.cat([h, fourier(skip, s[channels])], dim=1), *rest)

    layers = [layer for block in setting.unet.up_blocks for layer in block.resnets]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]

    def guidance(predict, *_):
        nonlocal skips
        skips = iter([64, 32, 32, 32] * 2)
        return setting.guide(predict)

    try:
        expected = setting.by_hand(guidance)
    finally:
        for hook in hooks:
            hook.remove()
    node = nodes_freelunch.FreeU if version == 1 else nodes_freelunch.FreeU_V2
    patched = node.execute(setting.model, 1.3, 1.4, 0.9, 0.2).args[0]
    assert agree(setting.ksampler(patched), expected)
    assert agree(setting.stage(patched), expected)
    assert not agree(setting.by_hand(setting.guide), expected)


def shrunk_forward(unet, x, t, embeds):
    """Run the tiny UNet, in which everything after the halving runs on half of the sides."""
    added = {"image_embeds": embeds}
    emb = unet.time_embedding(unet.get_time_embed(x, t).expand(len(x), -1))
    emb = emb + unet.get_aug_embed(emb, None, added)
    tokens = unet.process_encoder_hidden_states(None, added)
    first, second = unet.down_blocks
    h0 = unet.conv_in(x)
    h1 = first.resnets[0](h0, emb)
    h2 = first.downsamplers[0](h1, emb)
    small = comfy.utils.common_upscale(h2, h2.shape[-1] // 2, h2.shape[-2] // 2, "bicubic", "")
    h3 = second.attentions[0](second.resnets[0](small, emb), encoder_hidden_states=tokens)
    h = unet.mid_block(h3, emb, encoder_hidden_states=tokens)
    up, last = unet.up_blocks
    h = up.attentions[0](up.resnets[0](torch.cat([h, h3], 1), emb), encoder_hidden_states=tokens)
    h = comfy.utils.common_upscale(h, h2.shape[-1], h2.shape[-2], "bicubic", "")
    h = up.attentions[1](up.resnets[1](torch.cat([h, h2], 1), emb), encoder_hidden_states=tokens)
    h = up.upsamplers[0](h, emb)
    h = last.resnets[0](torch.cat([h, h1], 1), emb)
    h = last.resnets[1](torch.cat([h, h0], 1), emb)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))[:, :4]


def downscale(model, block=2, factor=2.0, after=True, end=0.35, method="bicubic"):
    node = PatchModelAddDownscale
    return node.execute(model, block, factor, 0.0, end, after, method, method).args[0]


def test_deep_shrink(larger):
    model_sampling = larger.model.get_model_object("model_sampling")
    ends = model_sampling.percent_to_sigma(0.35)
    steps = []

    def guidance(predict, x, sigma):
        steps.append(bool(sigma >= ends))
        if not steps[-1]:
            return larger.guide(predict)
        t = larger.scheduler.timesteps[len(steps) - 1]
        scaled = x / (sigma**2 + 1) ** 0.5
        without, with_prompt = (
            shrunk_forward(larger.unet, scaled, t, which.tensor)
            for which in (larger.negative, larger.positive)
        )
        return without + CFG * (with_prompt - without)

    expected = larger.by_hand(guidance)
    assert 0 < sum(steps) < STEPS
    patched = downscale(larger.model)
    assert agree(larger.ksampler(patched), expected)
    assert agree(larger.stage(patched), expected)
    assert not agree(larger.by_hand(larger.guide), expected)


@pytest.mark.parametrize("factor", [1.3, 1.5, 3.7])
@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("after", [True, False])
def test_deep_shrink_to_odd_sizes(models, load_decoder, embeds, factor, block, after):
    """A side is halved with a remainder, or only one of two sides differs."""
    setting = Setting(models, load_decoder, embeds, DEPTH, side=16)
    setting.latent = canvas(BATCH, 14, 22)
    patched = downscale(setting.model, block, factor, after, end=1.0)
    samples = setting.stage(patched)
    assert samples.shape == (BATCH, 4, 14, 22) and samples.isfinite().all()
    assert not torch.equal(samples, setting.stage(setting.model))


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "HyperTile": lambda model: HyperTile.execute(model, 256, 2, 0, False)[0],
    "TomePatchModel": lambda model: TomePatchModel.execute(model, 0.3).args[0],
}


@pytest.mark.parametrize("node", REFUSED)
@pytest.mark.parametrize("path", ["stage", "ksampler"])
def test_what_has_no_sense_is_refused_by_name(setting, node, path):
    message = f"^Kandinsky 2.2 has no place for patches of other models: {node} .*Take that node"
    with pytest.raises(ValueError, match=message):
        getattr(setting, path)(REFUSED[node](setting.model))


@pytest.mark.parametrize("path", ["stage", "ksampler"])
def test_layers_that_are_not_there(setting, path):
    node = nodes_slg.SkipLayerGuidanceDiT
    patched = node.execute(setting.model, 3.0, 0.0, 1.0, "7, 8, 9", "7, 8, 9").args[0]
    message = r"SkipLayerGuidanceDiT \(dit at double_block 7.*has 4 layers .*double_block 0 to 3"
    with pytest.raises(ValueError, match=message):
        getattr(setting, path)(patched)


@pytest.mark.parametrize("path", ["stage", "ksampler"])
def test_a_patch_that_loses_pixels(setting, path):
    model = setting.model.clone()
    model.set_model_attn1_output_patch(lambda output, options: output[:, ::2])
    with pytest.raises(ValueError, match="^Take .* out. It makes .* needs all of them"):
        getattr(setting, path)(model)


@pytest.mark.parametrize("path", ["stage", "ksampler"])
def test_a_patch_that_fails_is_named(setting, path):
    patched = downscale(setting.model, factor=9.0)  # 4 latents become 0
    with pytest.raises(ValueError, match="^PatchModelAddDownscale fails on .*8×8 latents"):
        getattr(setting, path)(patched)
