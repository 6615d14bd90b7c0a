"""Embeddings are mixed by their weights: linear as in diffusers, slerp on the great circle."""

import math

import comfy.clip_vision
import comfy.model_base
import pytest
import torch
from comfy.ldm.modules.encoders.noise_aug_modules import CLIPEmbeddingNoiseAugmentation
from helpers import oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kandinsky22 import nodes
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds
from kandinsky22.utils.kandinsky.mixing import interpolate_sequence, mix
from PIL import Image


def interpolate(values, weights, method="linear"):
    """Run the node as ComfyUI calls it."""
    count = {"count": str(len(values))}
    for i, (value, weight) in enumerate(zip(values, weights, strict=True), 1):
        count |= {f"image_embeds_{i}": value, f"weight_{i}": weight}
    return nodes.Interpolate.execute(count=count, method=method).args[0]


def test_linear_equals_the_pipeline(models, prior, embeds):
    """There is one text, in the first place.

    With more, diffusers shares one generator among them.
    """
    pipeline = oracle.pipeline("KandinskyV22PriorPipeline", models / "kandinsky-2-2-tiny-prior")
    pictures = [Image.effect_noise((64, 64), 90).convert("RGB").resize((64, 64)) for _ in range(2)]
    weights = [0.3, 0.5, 0.2]
    theirs = pipeline.interpolate(
        ["a red cat", *pictures],
        weights,
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(7),
    ).image_embeds

    text = prior.sample("a red cat", "", 7, 5, 4.0)[0]
    pixels = [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures]
    images = [values.reshape(1, 64, 64, 3).float() / 255 for values in pixels]
    ours = interpolate([text, *(prior.encode_image(image) for image in images)], weights)
    assert oracle.max_diff(ours.tensor, theirs) == 0.0


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_weights_one_and_zero_give_the_first_exactly(embeds, method):
    assert torch.equal(
        mix([embeds(2, 1), embeds(2, 2)], [1, 0], method).tensor, embeds(2, 1).tensor
    )


@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_every_count(embeds, count, method):
    values = [embeds(1, i) for i in range(count)]
    assert interpolate(values, [1 / count] * count, method).tensor.shape == (1, 24)


vectors = st.integers(0, 2**31).map(
    lambda seed: torch.randn(2, 24, generator=torch.Generator().manual_seed(seed))
)
shares = st.floats(0.01, 1.0)


@settings(deadline=None, max_examples=50)
@given(vectors, vectors, vectors, shares, shares, shares)
def test_slerp_properties(a, b, c, u, v, w):
    values = [ImageEmbeds(x) for x in (a, b, c)]
    mean = mix(values, [u, v, w], "slerp").tensor
    # symmetric
    turned = mix([values[2], values[0], values[1]], [w, u, v], "slerp").tensor
    assert torch.allclose(mean, turned, atol=1e-5)
    # only the ratios count
    assert torch.allclose(mean, mix(values, [2 * u, 2 * v, 2 * w], "slerp").tensor, atol=1e-5)
    # its norm is the weighted mean of the norms
    norms = torch.stack([x.norm(dim=-1) for x in (a, b, c)])
    wanted = (norms * torch.tensor([u, v, w])[:, None]).sum(0) / (u + v + w)
    assert torch.allclose(mean.norm(dim=-1), wanted, rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(vectors, vectors, st.floats(0.0, 1.0))
def test_slerp_of_two_is_the_great_circle(a, b, t):
    """The result is compared with Shoemake's closed form."""
    mean = mix([ImageEmbeds(a), ImageEmbeds(b)], [1 - t, t], "slerp").tensor
    x, y = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    angle = (x * y).sum(-1, keepdim=True).clamp(-1, 1).acos()
    assume(angle.min() > 0.01)  # the closed form divides by its sine
    way = ((1 - t) * angle).sin() / angle.sin() * x + (t * angle).sin() / angle.sin() * y
    norm = (1 - t) * a.norm(dim=-1, keepdim=True) + t * b.norm(dim=-1, keepdim=True)
    assert torch.allclose(mean, way * norm, atol=2e-5)


def test_batches_pair_up_or_broadcast(embeds):
    mixed = mix([embeds(3, 1), embeds(1, 2)], [0.5, 0.5], "linear").tensor
    assert torch.equal(mixed, embeds(3, 1).tensor * 0.5 + embeds(1, 2).tensor * 0.5)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_sequence_goes_from_one_to_the_other(embeds, method):
    frames = nodes.InterpolateSequence.execute(embeds(1, 1), embeds(1, 2), 5, method).args[0]
    assert frames.tensor.shape == (5, 24)
    assert torch.equal(frames.tensor[:1], embeds(1, 1).tensor)
    assert torch.equal(frames.tensor[-1:], embeds(1, 2).tensor)
    middle = mix([embeds(1, 1), embeds(1, 2)], [1, 1], "slerp" if method == "slerp" else "linear")
    scale = 1 if method == "slerp" else 0.5
    assert torch.allclose(frames.tensor[2:3], middle.tensor * scale, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda e: mix([e(), e(width=16)], [1, 1], "linear"), "16 wide.*first input.*takes 24"),
        (
            lambda e: mix([e(2), e(3)], [1, 1], "linear"),
            "image_embeds_1 has 2, image_embeds_2 has 3",
        ),
        (lambda e: mix([e(), e(1, 1)], [1, -1], "slerp"), r"not negative.*not \[1, -1\]"),
        (lambda e: mix([e(), e(1, 1)], [0, 0], "slerp"), "not all 0"),
        (lambda e: mix([e(), ImageEmbeds(-e().tensor)], [1, 1], "slerp"), "opposite directions"),
        (lambda e: mix([e(), ImageEmbeds(-e().tensor)], [1, 2], "slerp"), "opposite directions"),
        (lambda e: interpolate([e(), "x"], [1, 1]), "'x' came where a KANDINSKY22_EMBEDS belongs"),
        (lambda e: interpolate([e(), e()], [1, "1"]), "weight_2 is '1', not a finite"),
        (lambda e: interpolate([e(), e()], [1, 1], "cubic"), "'cubic'; choose one of linear, sl"),
        (lambda e: nodes.Interpolate.execute(count="9", method="linear"), "count is one of .* '9'"),
        # ComfyUI makes this of {"count": "9"}, for which it has no inputs
        (lambda e: nodes.Interpolate.execute(method="linear"), "count is one of .* not None"),
        (lambda e: nodes.InterpolateSequence.execute(e(), 5, 3, "slerp"), "5 came where a KAND"),
        (lambda e: interpolate_sequence(e(), e(), 0, "slerp"), "frames is 0; it goes from 1"),
        (lambda e: interpolate_sequence(e(), e(), 2**64, "slerp"), "it goes from 1 to 4096"),
        (lambda e: ImageEmbeds(torch.zeros(0, 24)), "empty batch"),
        (lambda e: ImageEmbeds(torch.full((1, 24), 1e300, dtype=torch.float64)), "infinity"),
        (lambda e: interpolate_sequence(e(2), e(), 3, "slerp"), "start_embeds has 2"),
        (lambda e: interpolate([e(), e(1, 1)], [math.nan, 1]), "weight_1 is nan, not a finite"),
        (lambda e: nodes.Interpolate.execute(count={}, method="linear"), "count is one of .* {}"),
        (lambda e: ImageEmbeds(torch.zeros(24)), r"tensor, not \(24,\)"),
    ],
)
def test_bad_input(embeds, call, message):
    with pytest.raises(ValueError, match=message):
        call(embeds)


def test_from_clip_vision(embeds):
    output = comfy.clip_vision.Output()
    output["image_embeds"] = embeds(2).tensor
    assert torch.equal(nodes.EmbedsFromClipVision.execute(output).args[0].tensor, embeds(2).tensor)
    output["image_embeds"] = None  # of a model that has no such projection
    for wrong in (output, "x", {"image_embeds": embeds().tensor}):
        with pytest.raises(ValueError, match="embeddings are a .batch, width. tensor, not"):
            nodes.EmbedsFromClipVision.execute(wrong)


def test_to_clip_vision_and_back(embeds):
    output = nodes.EmbedsToClipVision.execute(embeds(2)).args[0]
    assert isinstance(output, comfy.clip_vision.Output)
    assert torch.equal(nodes.EmbedsFromClipVision.execute(output).args[0].tensor, embeds(2).tensor)
    assert output["mm_projected"] is None
    with pytest.raises(
        AttributeError, match="penultimate_hidden_states is not in image embed.* CLI"
    ):
        _ = output["penultimate_hidden_states"]
    with pytest.raises(ValueError, match="'x' came where a KANDINSKY22_EMBEDS belongs"):
        nodes.EmbedsToClipVision.execute("x")


def test_what_sdxl_reads_of_it(embeds):
    """ComfyUI's unCLIPConditioning and SDXL's pooled input read it like CLIP Vision's output."""
    from nodes import unCLIPConditioning  # ComfyUI's

    start = embeds(1, width=1280)

    seen = []
    for output in (nodes.EmbedsToClipVision.execute(start).args[0], comfy.clip_vision.Output()):
        output["image_embeds"] = start.tensor.clone()
        (conditioning,) = unCLIPConditioning().apply_adm(
            [[torch.zeros(1, 77, 8), {}]], output, 1, 0
        )
        augment = CLIPEmbeddingNoiseAugmentation(
            noise_schedule_config={"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"},
            timestep_dim=1280,
        )
        values = {**conditioning[0][1], "device": torch.device("cpu"), "seed": 3}
        seen.append(comfy.model_base.sdxl_pooled(values, augment))
    assert seen[0].shape == (1, 1280) and torch.equal(*seen)
    given = nodes.EmbedsToClipVision.execute(start).args[0]
    given.image_embeds.mul_(2)  # a change by another node does not reach the original
    assert torch.equal(start.tensor, embeds(1, width=1280).tensor)
