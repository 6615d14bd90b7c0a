"""In a real server, the nodes give diffusers' bits, and ComfyUI caches and interrupts them."""

import io
import json

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.checkout import WORKFLOWS
from helpers.server_prompts import forget_outputs, node
from PIL import Image
from safetensors.torch import load_file

from scripts.comfyui import WorkflowError, WorkflowInterrupted

SAMPLING = dict(seed=7, steps=6, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")


def text_to_image(negative: str = "", seed: int = 7, **changes) -> dict:
    """Return the workflow from prompt to latents and pixels, with everything saved."""
    return {
        "load_prior": node(
            "Kandinsky22LoadPrior", model_name="kandinsky-2-2-tiny-prior", weight_dtype="default"
        ),
        "load_decoder": node(
            "Kandinsky22LoadDecoder",
            model_name="kandinsky-2-2-tiny-decoder",
            weight_dtype="default",
        ),
        "prior": node(
            "Kandinsky22Prior",
            prior=["load_prior", 0],
            prompt="a red cat",
            negative_prompt=negative,
            seed=3,
            steps=5,
            cfg=4.0,
            batch_size=1,
        ),
        "canvas": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "decoder": node(
            "Kandinsky22Decoder",
            model=["load_decoder", 0],
            image_embeds=["prior", 0],
            negative_image_embeds=["prior", 1],
            latent=["canvas", 0],
            **SAMPLING | dict(seed=seed) | changes,
        ),
        "latent": node("SaveLatent", samples=["decoder", 0], filename_prefix="test/latent"),
        "positive": node("Kandinsky22SaveEmbeds", image_embeds=["prior", 0], filename_prefix="p"),
        "negative": node("Kandinsky22SaveEmbeds", image_embeds=["prior", 1], filename_prefix="n"),
        "pixels": node("VAEDecode", samples=["decoder", 0], vae=["load_decoder", 1]),
        "image": node("SaveImage", images=["pixels", 0], filename_prefix="test/image"),
    }


def saved(server, outputs: dict, name: str, kind: str) -> dict[str, torch.Tensor]:
    file = outputs[name][kind][0]
    return load_file(server.output / file["subfolder"] / file["filename"])


@pytest.mark.parametrize("negative", ["", "a dog"])
def test_same_bits_as_the_pipelines(server, negative):
    result = server.run(text_to_image(negative))
    latents = saved(server, result.outputs, "latent", "latents")["latent_tensor"]
    embeds = saved(server, result.outputs, "positive", "embeds")["image_embeds"]
    negatives = saved(server, result.outputs, "negative", "embeds")["image_embeds"]

    folder = server.base / "models" / "diffusers"
    prior = oracle.pipeline("KandinskyV22PriorPipeline", folder / "kandinsky-2-2-tiny-prior")
    wanted, unwanted = prior(
        "a red cat",
        negative_prompt=negative or None,
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(3),
    ).to_tuple()
    assert oracle.max_diff(embeds, wanted) == 0.0
    assert oracle.max_diff(negatives, unwanted) == 0.0

    decoder = oracle.pipeline("KandinskyV22Pipeline", folder / "kandinsky-2-2-tiny-decoder")
    expected = decoder(
        image_embeds=wanted,
        negative_image_embeds=unwanted,
        num_inference_steps=6,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    assert oracle.max_diff(latents, expected) == 0.0


def test_another_decoder_seed_does_not_run_the_prior_again(server):
    server.run(text_to_image(seed=11))
    result = server.run(text_to_image(seed=12))
    assert "decoder" in result.executed
    assert not {"load_prior", "load_decoder", "prior"} & set(result.executed)
    assert {"load_prior", "load_decoder", "prior"} <= set(result.cached)
    assert server.run(text_to_image(seed=12)).executed == []


def test_progress_reaches_the_page(server):
    steps = []
    server.run(
        text_to_image(seed=21),
        lambda name, fields: name == "progress" and steps.append((fields["node"], fields["value"])),
    )
    assert ("decoder", 6) in steps and max(value for node, value in steps if node == "decoder") == 6


@pytest.mark.parametrize("workflow", ["text_to_image", "ksampler"])
def test_previews_show_the_picture_as_it_forms(server, workflow):
    """On the bundled model, which has its map to colours, each step has one preview."""
    prompt = json.loads((WORKFLOWS / "api" / f"{workflow}.json").read_text())
    sampler = next(item for item in prompt.values() if "sampler_name" in item["inputs"])
    sampler["inputs"] |= dict(seed=33, steps=12)
    previews, steps = [], []

    def note(name, content):
        if name == "preview":
            previews.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
        elif name == "progress" and prompt[content["node"]] is sampler:
            steps.append(content["value"])

    result = server.run(prompt, note)
    assert len(previews) == 12 and steps == list(range(1, 13))
    saved = Image.open(io.BytesIO(server.fetch(result.images[-1]))).convert("RGB")
    picture = np.asarray(saved.resize((16, 16), Image.Resampling.BOX)).astype(float)
    first, last = (
        np.abs(np.asarray(Image.fromarray(seen).resize((16, 16))) - picture).mean()
        for seen in (previews[0], previews[-1])
    )
    assert last < 15 < first  # of 255


STAGES = [
    ("ksampler", "KSampler"),
    ("text_to_image", "Kandinsky22Prior"),
    ("text_to_image", "Kandinsky22Decoder"),
    ("image_to_image", "Kandinsky22Img2Img"),
    ("inpaint", "Kandinsky22Inpaint"),
    ("depth_controlnet", "Kandinsky22ControlNet"),
    ("depth_controlnet_image_to_image", "Kandinsky22ControlNetImg2Img"),
    ("depth_controlnet_image_to_image", "Kandinsky22PriorEmb2Emb"),
]


@pytest.mark.parametrize("workflow, stage", STAGES, ids=[stage for _, stage in STAGES])
def test_interrupt_stops_the_stage_and_leaves_no_trace(server, tiny_workflow, workflow, stage):
    prompt = tiny_workflow(workflow, steps=40)
    number = next(n for n, item in prompt.items() if item["class_type"] == stage)
    prompt[number]["inputs"]["seed"] = 5
    seen = []

    def stop_early(name, fields):
        if name == "progress" and fields["node"] == number:
            seen.append(fields["value"])
            if len(seen) == 1:
                server.interrupt()

    with pytest.raises(WorkflowInterrupted) as stopped:
        server.run(prompt, stop_early)
    assert stopped.value.node_id == number
    # Of 40 or 20, with some time to react; test_interrupt checks the exact step.
    assert max(seen) < 20

    again = server.run(prompt)
    forget_outputs(server)
    reference = server.run(prompt)
    assert number in reference.executed
    first, second = (server.fetch(result.images[-1]) for result in (again, reference))
    assert np.array_equal(pixels(first), pixels(second))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("load_prior", dict(model_name="nothing"), "No model named 'nothing' for Load Prior"),
        (
            "load_prior",
            dict(model_name="kandinsky-2-2-tiny-decoder"),
            "is a Kandinsky 2.2 decoder: use Load Decoder for it",
        ),
        ("decoder", dict(steps=0), "smaller than min"),
        ("prior", dict(steps=1), "smaller than min"),
        ("decoder", dict(image_embeds=["canvas", 0]), "mismatch"),
        ("decoder", dict(sampler_name="magic"), "not in list"),
    ],
)
def test_refused_before_it_runs(server, name, change, message):
    prompt = text_to_image()
    prompt[name]["inputs"] |= change
    with pytest.raises(WorkflowError, match=message) as refused:
        server.run(prompt)
    assert refused.value.node_id == name


def test_an_error_names_its_node_and_the_next_run_works(server):
    prompt = text_to_image(seed=31)
    del prompt["decoder"]["inputs"]["negative_image_embeds"]
    with pytest.raises(WorkflowError, match="connect negative_image_embeds") as failed:
        server.run(prompt)
    assert failed.value.node_id == "decoder"
    assert server.run(text_to_image(seed=31)).images


def test_nothing_complained(server):
    """The pack is imported, and logs nothing at start that a user would have to think about."""
    log = server.log.read_text()
    assert "Cannot import" not in log and "IMPORT FAILED" not in log
    assert "No VAE weights detected" not in log
