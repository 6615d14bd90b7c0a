"""A server survives files that vanish or change, a full disk, a kill and two users at once."""

import io
import os
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers.checkout import HOST
from helpers.server_prompts import forget_outputs, node
from PIL import Image
from safetensors.torch import load_file, save_file

from scripts import comfyui, host
from scripts.client import Client
from scripts.comfyui import ServerError, WorkflowError

DECODER = "kandinsky-2-2-tiny-decoder"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def text_to_image(tiny_workflow):
    """Return a function that makes the bundled workflow with this seed in all of its stages."""

    def make(seed: int, decoder: str = DECODER, steps: int = 4) -> dict:
        prompt = tiny_workflow("text_to_image", steps)
        for item in prompt.values():
            if "seed" in item["inputs"]:
                item["inputs"]["seed"] = seed
            if item["inputs"].get("model_name") == DECODER:
                item["inputs"]["model_name"] = decoder
        return prompt

    return make


def number(prompt: dict, kind: str) -> str:
    return next(n for n, item in prompt.items() if item["class_type"] == kind)


def pixels(server, images: list[dict]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(server.fetch(each)))) for each in images])


def wait_until(holds, patience: float = 60):
    deadline = time.monotonic() + patience
    while not (value := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@contextmanager
def busy(server, prompt: dict):
    """Keep the server busy with another prompt, while more prompts are queued."""
    first = server.queue(prompt)
    wait_until(lambda: server.get("/queue")["queue_running"])
    yield
    server.cancel(first)


@pytest.fixture
def copied(server):
    """A copy of a decoder folder that tests may change."""
    models = server.base / "models" / "diffusers"
    shutil.copytree(models / DECODER, models / "copied")
    yield models / "copied"
    shutil.rmtree(models / "copied", ignore_errors=True)


@pytest.mark.parametrize(
    "lost, message",
    [
        (UNET, "has no .safetensors weights. Download the model again."),
        ("unet/config.json", "is missing: the model folder is not complete. Download it again."),
        ("", "No model named 'copied' for Load Decoder."),
    ],
)
def test_a_model_that_vanishes_in_the_queue(server, text_to_image, copied, lost, message):
    """This also holds if ComfyUI has kept the loaded models."""
    before = server.run(text_to_image(41, "copied"))
    with busy(server, text_to_image(1, steps=500)):
        queued = server.queue(text_to_image(42, "copied"))
        shutil.move(copied / lost, server.base / "away")
    status = wait_until(lambda: server.history(queued))["status"]
    (report,) = [fields for name, fields in status["messages"] if name == "execution_error"]
    assert report["node_type"] == "Kandinsky22LoadDecoder"
    assert message in report["exception_message"]
    shutil.move(server.base / "away", copied / lost)
    after = server.run(text_to_image(41, "copied"))
    assert np.array_equal(pixels(server, after.images), pixels(server, before.images))


def test_a_model_that_changes_in_the_queue(server, text_to_image, copied):
    """The content at the time of the run counts."""
    old = pixels(server, server.run(text_to_image(43, "copied")).images)
    weights = load_file(copied / UNET)
    weights["conv_out.bias"] = weights["conv_out.bias"] + 1
    with busy(server, text_to_image(2, steps=500)):
        queued = server.queue(text_to_image(43, "copied"))
        (copied / UNET).unlink()
        save_file(weights, copied / UNET, {"format": "pt"})
    outputs = wait_until(lambda: server.history(queued))["outputs"].values()
    new = pixels(server, [image for output in outputs for image in output.get("images", [])])
    assert not np.array_equal(new, old)
    forget_outputs(server)
    again = server.run(text_to_image(43, "copied"))
    assert np.array_equal(pixels(server, again.images), new)


@pytest.mark.skipif(sys.platform != "linux", reason="only there a running process can be limited")
def test_no_room_for_embeddings(server):
    """The kernel itself refuses in the middle of a file, as no file may grow beyond a megabyte."""
    import resource

    embeds = {"image_embeds": torch.rand(20_000, 24)}
    file = server.base / "input" / "many.safetensors"
    save_file(embeds, file, {"format": "kandinsky22 image_embeds 1"})
    prompt = {
        "load": node("Kandinsky22LoadEmbeds", file="many.safetensors"),
        "save": node("Kandinsky22SaveEmbeds", image_embeds=["load", 0], filename_prefix="full/it"),
    }
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(WorkflowError, match="Nothing is saved under 'full/it'.*make room"):
            server.run(prompt)
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    # No part of a file that could be taken for a whole one.
    assert os.listdir(server.output / "full") == []
    server.run(prompt)
    (saved,) = (server.output / "full").iterdir()
    assert torch.equal(load_file(saved)["image_embeds"], embeds["image_embeds"])


def test_two_who_queue_at_once(server, text_to_image):
    """Each user gets the pictures that this user would get alone."""
    seeds = {"one": (61, 63, 65), "two": (62, 64, 66)}

    def queue_all(user: str) -> list[np.ndarray]:
        client = Client(server.url)
        results = [client.run(text_to_image(seed)) for seed in seeds[user]]
        return [pixels(server, result.images) for result in results]

    with ThreadPoolExecutor(2) as pool:
        together = [*pool.map(queue_all, seeds)]
    forget_outputs(server)
    alone = [queue_all(user) for user in seeds]
    assert np.array_equal(together, alone)
    assert not np.array_equal(alone[0], alone[1])


def test_killed_and_started_again(server, probed_server, text_to_image):
    """It restarts on the same folders, and gives the pictures of a server that was never killed."""
    prompt, other = text_to_image(51, steps=40), probed_server
    decoder = number(prompt, "Kandinsky22Decoder")

    def kill(name, fields):
        if name == "progress" and fields["node"] == decoder:
            other.process.kill()

    with pytest.raises(ServerError, match="went away|no answer"):
        other.run(prompt, kill)
    other.stop()
    other.start()
    again = pixels(other, other.run(prompt).images)
    assert np.array_equal(again, pixels(server, server.run(prompt).images))


def test_a_port_that_another_program_takes_first(tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = iter([other.getsockname()[1], comfyui.free_port()])
        monkeypatch.setattr(comfyui, "free_port", lambda: next(ports))
        with comfyui.Server(host.ensure(HOST["version"]), tmp_path, cpu=True) as server:
            assert server.get("/system_stats")
    assert next(ports, None) is None
