"""One real ComfyUI server for all tests of this folder, with tiny checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import tiny_models
from helpers.checkout import HOST, WORKFLOWS
from safetensors.torch import save_file

from scripts import host
from scripts.comfyui import Server

# The model names in the bundled workflows → the tiny checkpoint in place of each.
TINY = {
    "kandinsky-2-2-mini-prior": "kandinsky-2-2-tiny-prior",
    "kandinsky-2-2-mini-decoder": "kandinsky-2-2-tiny-decoder",
    "kandinsky-2-2-mini-decoder-inpaint": "kandinsky-2-2-tiny-decoder-inpaint",
    "kandinsky-2-2-mini-controlnet-depth": "kandinsky-2-2-tiny-controlnet-depth",
    "mini-depth-estimator": "tiny-glpn",
    "kandinsky-2-2-mini-night.safetensors": "tiny.safetensors",
}


def write_models(base: Path) -> None:
    """Write all models that TINY names, in the folders of a server."""
    tiny_models.write_all(base / "models" / "diffusers")
    tiny_models.write_depth_estimators(base / "models" / "depth_estimators")
    lora = {"add_k_proj.lora_down.weight": (4, 16), "add_k_proj.lora_up.weight": (64, 4)}
    prefix = "lora_unet_down_blocks_1_attentions_0_"
    (base / "models" / "loras").mkdir(parents=True)
    save_file(
        {prefix + name: torch.ones(shape) for name, shape in lora.items()},
        base / "models" / "loras" / "tiny.safetensors",
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    write_models(base)
    previews = ("--preview-method", "latent2rgb")
    with Server(host.ensure(HOST["version"]), base, previews, cpu=True) as running:
        yield running


@pytest.fixture
def base(tmp_path) -> Path:
    """The folder of a server that a test starts itself."""
    write_models(tmp_path)
    return tmp_path


@pytest.fixture
def probed_server(base):
    """A server for one test, which reports the values of this pack that are alive in it."""
    probe = base / "custom_nodes" / "probe" / "__init__.py"
    probe.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("probe.py"), probe)
    with Server(host.ensure(HOST["version"]), base, cpu=True) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server):
    return server.object_info()


@pytest.fixture
def tiny_workflow():
    """A bundled workflow in API form, on the tiny checkpoints and with few steps."""

    def load(name: str, steps: int = 4) -> dict:
        prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
        for node in prompt.values():
            inputs = node["inputs"]
            for widget in {"model_name", "lora_name"} & set(inputs):
                inputs[widget] = TINY[inputs[widget]]
            if "steps" in inputs:
                inputs["steps"] = max(steps, 4 if "denoise" not in inputs else 8)
        return prompt

    return load
