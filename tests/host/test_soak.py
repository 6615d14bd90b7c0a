"""A server that runs hundreds of prompts, some wrong and some interrupted, does not grow.

`--soak 500` queues 500 prompts. Without it, a short form runs. Every line of artefacts/soak.log is
a round of the bundled workflows, after which the server was told to free its memory.
"""

import hashlib
import itertools
import time

import pytest
from helpers.checkout import PACK, WORKFLOWS

from scripts.comfyui import WorkflowError, WorkflowInterrupted
from tools.thumbnails import saved_pictures

NAMES = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
LOG = PACK / "artefacts" / "soak.log"
SHORT = 60  # three rounds
KEPT = 240  # bytes: means and deviations of the last 10 image processors, which transformers keeps
GROWTH = 0.05  # of resident memory after the first two rounds, at most


def with_widgets(prompt: dict, **widgets) -> dict:
    for node in prompt.values():
        node["inputs"] |= {key: widgets[key] for key in widgets.keys() & node["inputs"].keys()}
    return prompt


def last_stage(prompt: dict) -> str:
    return [number for number, node in prompt.items() if "cfg" in node["inputs"]][-1]


def interrupt(server, prompt: dict) -> int:
    stage = last_stage(prompt)

    def stop(name, fields):
        if name == "progress" and fields["node"] == stage and fields["value"] == 1:
            server.interrupt()

    with pytest.raises(WorkflowInterrupted):
        server.run(with_widgets(prompt, seed=99, steps=200), stop)
    return 1


def refuse(server, prompt: dict) -> int:
    with pytest.raises(WorkflowError, match="No model named 'nothing'"):
        server.run(with_widgets(prompt, model_name="nothing"))
    return 1


def fail(server, prompt: dict) -> int:
    """Fail in the last stage, after all others are done."""
    stage = last_stage(prompt)
    prompt[stage]["inputs"]["model"] = "nothing"
    with pytest.raises(WorkflowError) as failed:
        server.run(with_widgets(prompt, seed=99))
    assert failed.value.node_id == stage
    return 1


def clear(server, prompt: dict) -> int:
    """Remove waiting prompts from the queue, and stop the running one."""
    for seed in range(90, 95):
        server.queue(with_widgets(prompt, seed=seed, steps=200))
    server.post("/queue", {"clear": True})
    server.interrupt()
    while any(server.get("/queue").values()):
        time.sleep(0.05)
    return 5


def free(server, empty: dict) -> dict:
    """Return what is alive after the server has freed everything, which takes some time."""
    for _ in range(20):
        server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(0.5)
        alive = server.get("/probe")
        if alive["ours"] == empty["ours"] and alive["tensors"] <= empty["tensors"] + KEPT:
            break
    return alive


def digest(server, result) -> str:
    """Return a digest of every bit of all pictures of a result."""
    pixels = [
        picture.tobytes()
        for image in result.images
        for picture in saved_pictures(image["filename"], server.fetch(image))
    ]
    assert pixels
    return hashlib.sha256(b"".join(pixels)).hexdigest()


def test_soak(request, probed_server, tiny_workflow):
    server, count = probed_server, request.config.getoption("--soak") or SHORT
    empty = server.get("/probe")
    troubles = itertools.cycle((interrupt, refuse, fail, clear))
    first: dict[str, str] = {}
    resident, queued, start = [], 0, time.monotonic()
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    while queued < count:
        for place, name in enumerate(NAMES):
            prompt = tiny_workflow(name)
            result = server.run(prompt)
            assert last_stage(prompt) in result.executed  # made again, and not taken from the cache
            made = digest(server, result)
            assert first.setdefault(name, made) == made
            queued += 1
            if (place + len(resident)) % 3 == 0:
                queued += next(troubles)(server, tiny_workflow(name))
        alive = free(server, empty)
        resident.append(alive["resident"])
        with LOG.open("a") as log:
            log.write(
                f"{queued:5} prompts, {time.monotonic() - start:6.0f} s, "
                f"{alive['resident'] / 2**20:7.1f} MiB resident, {alive['tensors']} bytes in "
                f"tensors, ours: {alive['ours']}\n"
            )
        assert alive["ours"] == empty["ours"]
        assert alive["tensors"] <= empty["tensors"] + KEPT
    assert resident[-1] < resident[1] * (1 + GROWTH)
