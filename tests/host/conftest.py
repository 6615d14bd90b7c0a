"""One real ComfyUI server for all tests of this folder, with tiny checkpoints."""

import json

import pytest
import tiny_models
from checkout import HOST, WORKFLOWS
from kandinsky22.scripts import host
from kandinsky22.scripts.comfyui import Server

# What the shipped workflows name → the tiny checkpoint that stands in for it.
TINY = {
    "kandinsky-2-2-mini-prior": "kandinsky-2-2-tiny-prior",
    "kandinsky-2-2-mini-decoder": "kandinsky-2-2-tiny-decoder",
    "kandinsky-2-2-mini-decoder-inpaint": "kandinsky-2-2-tiny-decoder-inpaint",
    "kandinsky-2-2-mini-controlnet-depth": "kandinsky-2-2-tiny-controlnet-depth",
    "mini-depth-estimator": "tiny-glpn",
}


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    tiny_models.write_all(base / "models" / "diffusers")
    tiny_models.write_depth_estimators(base / "models" / "depth_estimators")
    with Server(host.ensure(HOST["version"]), base, cpu=True) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server):
    return server.object_info()


@pytest.fixture
def tiny_workflow():
    """A shipped workflow in API form, on the tiny checkpoints and with few steps."""

    def load(name: str, steps: int = 4) -> dict:
        prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
        for node in prompt.values():
            inputs = node["inputs"]
            if "model_name" in inputs:
                inputs["model_name"] = TINY[inputs["model_name"]]
            if "steps" in inputs:
                inputs["steps"] = max(steps, 4 if "denoise" not in inputs else 8)
        return prompt

    return load
