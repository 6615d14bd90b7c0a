"""API JSON as users write it: numbers as texts, whole numbers as 3.0, a count as a number."""

import pytest
from helpers.server_prompts import node

from scripts.comfyui import WorkflowError

PRIOR = "kandinsky-2-2-tiny-prior"


def mixed(count, kind=str, **changes) -> dict:
    """Return a prompt that mixes three embeddings."""
    sampling = dict(prompt="a", negative_prompt="", seed=7, steps=3, cfg=1.5, batch_size=1)
    mix = {"count": count, "method": "slerp"}
    mix |= {f"count.image_embeds_{i}": ["prior", i % 2] for i in (1, 2, 3)}
    mix |= {f"count.weight_{i}": kind(i / 4) for i in (1, 2, 3)}
    return {
        "load": node("Kandinsky22LoadPrior", model_name=PRIOR, weight_dtype="default"),
        "prior": node("Kandinsky22Prior", prior=["load", 0], **sampling | changes),
        "mix": node("Kandinsky22Interpolate", **mix),
        "save": node("Kandinsky22SaveEmbeds", image_embeds=["mix", 0], filename_prefix="api/x"),
    }


def saved(server, prompt: dict) -> bytes:
    server.run(prompt)
    return max((server.output / "api").iterdir()).read_bytes()


def test_what_reasonable_people_write(server):
    seed = 2**64 - 1
    expected = saved(server, mixed("3", float, seed=seed))
    for count in (3, 3.0):
        others = dict(seed=str(seed), steps="3", cfg="1.5", batch_size=1.0)
        assert saved(server, mixed(count, str, **others)) == expected
    assert saved(server, mixed(3, seed=7.0, cfg=2)) == saved(server, mixed("3", seed=7, cfg=2.0))


@pytest.mark.parametrize("count", [9, "9", True, None, "three", {"a": 1}, 2.5])
def test_a_count_that_is_none(server, count):
    with pytest.raises(WorkflowError, match="count is one of the choices 2 to 8"):
        server.run(mixed(count))


@pytest.mark.parametrize("i", [1, 3])
def test_a_count_as_a_number_needs_its_inputs(server, i):
    prompt = mixed(3)
    del prompt["mix"]["inputs"][f"count.image_embeds_{i}"]
    with pytest.raises(WorkflowError, match=f"missing.*image_embeds_{i}"):
        server.run(prompt)


@pytest.mark.parametrize(
    "place, value, message",
    [
        ("load.model_name", 5, "No model named 5 for Load Prior. Found: "),
        ("load.model_name", True, "No model named True for Load Prior"),
        ("load.model_name", {"a": 1}, "No model named .* for Load Prior"),
        ("load.weight_dtype", 16, "weight_dtype: 16 not in"),
        ("prior.cfg", float("nan"), "cfg is nan, not a finite number"),
        ("prior.cfg", "x", "cfg, x, could not convert"),
        ("prior.seed", str(2**64), "bigger than max"),
        ("prior.steps", "2.5", "steps, 2.5, invalid literal"),
        ("mix.count.weight_1", float("nan"), "weight_1 is nan, not a finite number"),
        ("mix.method", 5, "method: 5 not in"),
    ],
)
def test_what_is_refused(server, place, value, message):
    prompt = mixed(3)
    number, name = place.split(".", 1)
    prompt[number]["inputs"][name] = value
    with pytest.raises(WorkflowError, match=message):
        server.run(prompt)


@pytest.mark.parametrize("value", [5, True, {"a": 1}, "x\0y"])
@pytest.mark.parametrize(
    "kind, name, more",
    [
        ("LoadEmbeds", "file", {}),
        ("LoadUNet", "unet_name", {"weight_dtype": "default"}),
        ("LoadMoVQ", "vae_name", {}),
        ("LoadDepthEstimator", "model_name", {}),
        ("GetModels", "repository", {"precision": "fp16"}),
    ],
)
def test_names_of_another_type(server, kind, name, more, value):
    prompt = {"1": node(f"Kandinsky22{kind}", **{name: value}, **more)}
    prompt["2"] = node("PreviewAny", source=["1", 0])
    if kind == "GetModels":
        del prompt["2"]
    with pytest.raises(WorkflowError, match="No (file|model) named|There is no file|not in "):
        server.run(prompt)
