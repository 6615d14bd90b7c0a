"""Get Models downloads a model in a real server, which can use it at once."""

import json
import shutil
import threading

import pytest
from helpers import tiny_models
from helpers.checkout import HOST, WORKFLOWS
from helpers.hub_server import Hub, half_of, wait_for
from kandinsky22.utils.download.repositories import REPOSITORIES

from scripts import host
from scripts.comfyui import Server, WorkflowError, WorkflowInterrupted

DECODER = "kandinsky-2-2-decoder"
PRIOR = "kandinsky-2-2-prior"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    tiny_models.write_all(folder, "kandinsky-2-2")
    with Hub() as running:
        for name in (DECODER, PRIOR):
            running.add(REPOSITORIES[name], folder / name)
        yield running


@pytest.fixture(scope="module")
def bare_server(hub, tmp_path_factory):
    """A server without models that uses the test's hub."""
    base = tmp_path_factory.mktemp("comfyui")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", hub.url)
        environment.setenv("HF_HOME", str(base / "hf"))
        environment.setenv("NO_PROXY", "127.0.0.1")
        with Server(host.ensure(HOST["version"]), base, cpu=True) as running:
            yield running


def get(repository: str) -> dict:
    inputs = {"repository": repository, "precision": "fp16"}
    return {"get": {"class_type": "Kandinsky22GetModels", "inputs": inputs}}


def choices(server, loader: str) -> list[str]:
    spec = server.object_info(loader)[loader]["input"]["required"]["model_name"]
    names = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    return [name for name in names if "mini" not in name]


def test_interrupted_then_fetched_then_used(bare_server, hub):
    decoder = REPOSITORIES[DECODER]
    size = len(hub.repositories[decoder.id, decoder.commit][UNET])
    hub.hold[UNET] = half = half_of(size)
    folder = bare_server.base / "models" / "diffusers"
    values, progressing = [], threading.Event()

    def interrupt():
        progressing.wait()
        wait_for(folder / f".{DECODER}.partial" / f"{UNET}.part", half)
        bare_server.interrupt()

    def note_progress(name, fields):
        if name == "progress":
            values.append(fields["value"] / fields["max"])
            progressing.set()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(WorkflowInterrupted) as stopped:
        bare_server.run(get(DECODER), note_progress)
    assert stopped.value.node_id == "get"
    assert values == sorted(values) and max(values) < 1
    assert not hub.release.is_set()  # while the network was silent
    assert choices(bare_server, "Kandinsky22LoadDecoder") == []

    hub.release.set()
    hub.served.clear()
    said = bare_server.run(get(DECODER)).outputs["get"]["text"][0]
    assert said.startswith(f"Ready. Press R in ComfyUI, then choose {DECODER} in Load Decoder")
    assert f"It is in {folder / DECODER}: fp16, " in said
    assert hub.served[UNET] == size - half
    assert choices(bare_server, "Kandinsky22LoadDecoder") == [DECODER]

    said = bare_server.run(get("text-to-image")).outputs["get"]["text"][0].splitlines()
    prior = f"Ready. Press R in ComfyUI, then choose {PRIOR} in Load Prior. It is in "
    assert said[0].startswith(prior) and said[1].startswith("Already there. ") and len(said) == 2
    prompt = json.loads((WORKFLOWS / "api" / "text_to_image.json").read_text())
    for node in prompt.values():
        if "model_name" in node["inputs"]:
            name = node["inputs"]["model_name"]
            node["inputs"]["model_name"] = name.replace("-mini-", "-")
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    assert bare_server.run(prompt).images


def test_queued_again_it_looks_again(bare_server, hub):
    bare_server.run(get(PRIOR))
    hub.served.clear()
    again = bare_server.run(get(PRIOR))
    assert again.executed == ["get"]
    assert again.outputs["get"]["text"][0].startswith("Already there.") and hub.bytes_served == 0


def test_an_odd_folder_keeps_no_other_waiting(bare_server):
    folder = bare_server.base / "models" / "diffusers"
    (folder / PRIOR / "download.json").unlink()
    shutil.rmtree(folder / DECODER)
    with pytest.raises(WorkflowError, match=f"{PRIOR} is there, but not as published") as failed:
        bare_server.run(get("text-to-image"))
    assert f"then choose {DECODER} in Load Decoder" in str(failed.value)
    assert choices(bare_server, "Kandinsky22LoadDecoder") == [DECODER]


def test_what_was_done_before_an_error_is_still_said(bare_server, hub, monkeypatch):
    """The prior exists, and the hub has nothing for the decoder."""
    decoder = REPOSITORIES[DECODER]
    monkeypatch.delitem(hub.repositories, (decoder.id, decoder.commit))
    folder = bare_server.base / "models" / "diffusers"
    for name in (PRIOR, DECODER):
        shutil.rmtree(folder / name, ignore_errors=True)
    bare_server.run(get(PRIOR))
    with pytest.raises(WorkflowError, match=r"Already there\. .*\n.* does not have ") as failed:
        bare_server.run(get("text-to-image"))
    assert decoder.id in str(failed.value)


def test_an_encoder_that_is_there_is_not_fetched(bare_server, hub):
    """It is in ComfyUI's folder for CLIP Vision, under another name."""
    prior, path = REPOSITORIES[PRIOR], "image_encoder/model.safetensors"
    mine = bare_server.base / "models" / "clip_vision" / "sdxl" / "bigG.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(hub.repositories[prior.id, prior.commit][path])
    shutil.rmtree(bare_server.base / "models" / "diffusers" / PRIOR, ignore_errors=True)
    hub.served.clear()
    said = bare_server.run(get(PRIOR)).outputs["get"]["text"][0]
    assert said.startswith("Ready. ")
    assert f" Not downloaded: {path}. It was made from {mine}, which is the published file." in said
    assert path not in hub.served and "text_encoder/model.safetensors" in hub.served


def test_an_error_is_the_nodes(bare_server):
    with pytest.raises(WorkflowError, match="does not have Intel/dpt-large with commit") as failed:
        bare_server.run(get("dpt-large"))
    assert failed.value.node_id == "get"
