"""Decoder equals the pipeline of diffusers, and each picture of a batch has its own noise."""

import pytest
import torch
from helpers import oracle, tiny_models
from helpers.decoding_stages import decode
from helpers.module_calls import watched
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

SCHEDULERS = {
    "published": {},
    "inpaint's": {"clip_sample": False},
    "learned_range": {"variance_type": "learned_range", "thresholding": True, "clip_sample": False},
}


@pytest.fixture(scope="module")
def decoder_named(models):
    """Return a function that writes a decoder with other scheduler settings, and gives its name."""

    def write(key: str) -> str:
        name = f"decoder-{list(SCHEDULERS).index(key)}"
        if not (models / name).exists():
            tiny_models.make_decoder(**SCHEDULERS[key]).save_pretrained(models / name)
        return name

    return write


def reference(folder, positive, negative, seed=7, steps=4, cfg=4.0, size=(64, 64)):
    return oracle.pipeline("KandinskyV22Pipeline", folder)(
        image_embeds=positive.tensor,
        negative_image_embeds=negative.tensor,
        num_inference_steps=steps,
        guidance_scale=cfg,
        height=size[0],
        width=size[1],
        generator=oracle.generators(seed, positive.batch),
        output_type="latent",
    ).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("cfg, batch", [(1.0, 1), (4.0, 1), (4.0, 3)])
def test_equals_the_pipeline(models, load_decoder, decoder_named, embeds, scheduler, cfg, batch):
    name = decoder_named(scheduler)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    ours = decode(load_decoder(name)[0], positive, negative, batch=batch, cfg=cfg)
    theirs = reference(models / name, positive, negative, cfg=cfg)
    assert oracle.max_diff(ours, theirs) == 0.0


def test_equals_the_pipeline_when_not_square(models, load_decoder, embeds):
    ours = decode(load_decoder()[0], embeds(1, 1), embeds(1, 2), size=(64, 128))
    folder = models / "kandinsky-2-2-tiny-decoder"
    theirs = reference(folder, embeds(1, 1), embeds(1, 2), size=(64, 128))
    assert oracle.max_diff(ours, theirs) == 0.0


def test_batch_item_alone(load_decoder, embeds):
    positive, negative = embeds(3, 1), embeds(3, 2)
    together = decode(load_decoder()[0], positive, negative, batch=3, seed=100)
    for i in range(3):
        alone = decode(
            load_decoder()[0],
            ImageEmbeds(positive.tensor[i : i + 1]),
            ImageEmbeds(negative.tensor[i : i + 1]),
            seed=100 + i,
        )
        assert oracle.max_diff(together[i : i + 1], alone) < 1e-4


def test_batch_index_takes_the_place_of_the_position(load_decoder, embeds):
    latent = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]}
    third = decode(load_decoder()[0], embeds(1, 1), embeds(1, 2), latent, seed=100)
    same = decode(load_decoder()[0], embeds(1, 1), embeds(1, 2), seed=102)
    assert torch.equal(third, same)


def test_one_canvas_gives_every_embedding_the_same_noise(load_decoder, embeds):
    twice = ImageEmbeds(embeds(1, 1).tensor.repeat(2, 1))
    first, second = decode(load_decoder()[0], twice, embeds(1, 2))
    assert oracle.max_diff(first, second) < 1e-5
    first, second = decode(load_decoder()[0], twice, embeds(1, 2), batch=2)
    assert oracle.max_diff(first, second) > 0.1


def test_any_multiple_of_eight(load_decoder, embeds):
    ours = decode(load_decoder()[0], embeds(1, 1), embeds(1, 2), size=(72, 88))
    assert ours.shape == (1, 4, 9, 11)
    assert torch.isfinite(ours).all()


@pytest.mark.parametrize("cfg, rows", [(0.0, 1), (1.0, 1), (1.01, 2), (4.0, 2)])
def test_guidance_costs_a_second_row_only_above_one(load_decoder, embeds, cfg, rows):
    model, _ = load_decoder()
    with watched(model.model.diffusion_model) as calls:
        decode(model, embeds(1, 1), embeds(1, 2), cfg=cfg, steps=3)
    assert calls == [rows] * 3


def test_negative_may_be_left_out_without_guidance(load_decoder, embeds):
    left_out = decode(load_decoder()[0], embeds(1, 1), None, cfg=1.0)
    assert torch.equal(left_out, decode(load_decoder()[0], embeds(1, 1), embeds(1, 2), cfg=1.0))


def test_inputs_are_left_as_they_were(load_decoder, embeds):
    positive, negative = embeds(1, 1), embeds(1, 2)
    latent = {"samples": torch.ones(1, 4, 8, 8), "noise_mask": torch.ones(1, 64, 64)}
    copies = [
        positive.tensor.clone(),
        negative.tensor.clone(),
        *(v.clone() for v in latent.values()),
    ]
    decode(load_decoder()[0], positive, negative, latent)
    now = [positive.tensor, negative.tensor, *latent.values()]
    assert all(torch.equal(a, b) for a, b in zip(copies, now, strict=True))
    assert set(latent) == {"samples", "noise_mask"}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(cfg=4.0, negative=None), "above 1, connect negative_image_embeds.*Zero Embeds"),
        (
            dict(positive=(1, 16)),
            "^Choose models of one family.*16 wide, and this decoder takes 24",
        ),
        (dict(negative=(1, 16)), "16 wide, and this decoder takes 24"),
        (
            dict(positive=(2, 24), negative=(3, 24)),
            "negative_image_embeds has 3, image_embeds has 2",
        ),
        (dict(positive=(2, 24), batch=3), "image_embeds has 2, latent has 3"),
        (dict(channels=16), r"not \(1, 16, 8, 8\).*Empty Latent Image"),
        (dict(steps=0), "steps is 0; at least 1"),
        (dict(batch=0), "latent is an empty batch"),
        (dict(steps=1000), "1000 steps are too many for ddpm with checkpoint"),
        (dict(steps=2**64), "18446744073709551616 steps are too many for ddpm with checkpoint"),
        (dict(steps="x"), "steps is 'x', not a finite number"),
        (dict(seed=1.5), "seed is 1.5, and has to be a whole number"),
        (dict(cfg=10**40), "not a finite number"),
        (dict(cfg="x"), "cfg is 'x', not a finite number"),
        (dict(sampler_name="magic"), "sampler_name is 'magic'; choose one of ddpm, ddim"),
        (dict(scheduler=["x"]), r"scheduler is \['x'\]; choose one of checkpoint, leading"),
        (dict(sampler_name="ddpm", scheduler="karras"), "ddpm has no karras spacing"),
    ],
)
def test_bad_input(load_decoder, embeds, change, message):
    change = dict(change)
    (count, width), channels = change.pop("positive", (1, 24)), change.pop("channels", 4)
    negative = change.pop("negative", (1, 24))
    latent = {"samples": torch.zeros(change.pop("batch", 1), channels, 8, 8)}
    with pytest.raises(ValueError, match=message):
        decode(
            load_decoder()[0],
            embeds(count, 1, width),
            negative and embeds(negative[0], 2, negative[1]),
            latent,
            **change,
        )


def test_nan_embeddings_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity.*fp32"):
        ImageEmbeds(torch.full((1, 24), float("nan")))


def test_a_model_of_another_kind_is_refused(load_decoder, embeds):
    class Other:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(
        ValueError, match="^Connect .*Load Decoder.*is a Linear, not a Kandinsky 2.2 decod"
    ):
        decode(Other(), embeds(1, 1), embeds(1, 2))


def test_a_decoder_of_another_variant_is_refused(load_decoder, embeds):
    model, _ = load_decoder("kandinsky-2-2-tiny-decoder-inpaint")
    message = "^In Load Decoder, choose .*2-2-decoder .*the text_to_image decoder.*inpaint one"
    with pytest.raises(ValueError, match=message):
        decode(model, embeds(1, 1), embeds(1, 2))
