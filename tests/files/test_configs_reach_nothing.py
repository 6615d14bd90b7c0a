"""A config that asks for code, kernels or other models leads to no download and runs nothing."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from helpers.checkout import PACK
from helpers.tiny_models import PRIOR
from kandinsky22.nodes.loaders import LoadDepthEstimator, LoadPrior
from kandinsky22.utils.files.configs import read_config

HUB = "somebody/kernels"
ASKING = {
    "attn_implementation": HUB,
    "_attn_implementation": HUB,
    "_attn_implementation_internal": HUB,
    "experts_implementation": HUB,
    "_experts_implementation": HUB,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "per_layer_config": {"0": {"attn_implementation": HUB}},
    "auto_map": {"AutoConfig": "code.Config", "AutoModelForDepthEstimation": "code.Model"},
}
CONFIGS = (
    (PRIOR, "text_encoder/config.json"),
    (PRIOR, "image_encoder/config.json"),
    ("tiny-dpt", "config.json"),
    ("tiny-depth-anything", "config.json"),
)
# A package that transformers asks for kernels, of a version that it accepts. It records each
# request. Its other names only have to be importable.
KERNELS = """
class Anything:
    def __init__(self, *arguments, **named): pass
    def __call__(self, *arguments, **named):
        return arguments[0] if arguments and callable(arguments[0]) else self  # a decorator
    def __getattr__(self, name): return Anything()
def get_kernel(*arguments, **named):
    open({log!r}, "a").write(repr(arguments))
    raise FileNotFoundError(arguments)
def __getattr__(name):
    return Anything if name[0].isupper() else Anything()
"""
LOAD = """
import sys
sys.path.insert(0, {tests!r})
import conftest
import folder_paths
for kind in ("diffusers", "depth_estimators"):
    folder_paths.add_model_folder_path(kind, {models!r})
from transformers.utils import is_kernels_available
from kandinsky22.nodes.loaders import LoadDepthEstimator, LoadPrior
print("kernels:", is_kernels_available())
LoadPrior.execute("asking-prior", "default").args[0].image_encoder  # built when asked for
for name in ("asking-dpt", "asking-anything"):
    LoadDepthEstimator.execute(name)
print("loaded")
"""


def add(path, entries):
    """Add entries to a config, and to the configs within it."""
    config = json.loads(path.read_text())
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part.update(entries)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("name, file", CONFIGS)
@pytest.mark.parametrize("key", ASKING)
def test_what_asks_for_code_is_dropped(broken, name, file, key):
    path = broken(name) / file
    add(path, {key: ASKING[key]})
    assert key in path.read_text()
    assert key not in json.dumps(read_config(path))
    loader = LoadPrior if name == PRIOR else LoadDepthEstimator
    loaded = loader.execute("broken", *(["default"] if name == PRIOR else [])).args[0]
    if name == PRIOR:
        assert loaded.image_encoder  # this builds it


def test_an_adapter_beside_a_depth_estimator_is_not_followed(broken, monkeypatch):
    """With peft installed, transformers would download the model that an adapter names."""
    folder = broken("tiny-dpt")
    adapter = {"base_model_name_or_path": "somebody/other", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    reached = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: reached.append(a) or [])
    LoadDepthEstimator.execute("broken")
    assert not reached


@pytest.mark.long
def test_no_kernel_is_asked_for(models, tmp_path):
    for name, copy in (
        (PRIOR, "asking-prior"),
        ("tiny-dpt", "asking-dpt"),
        ("tiny-depth-anything", "asking-anything"),
    ):
        folder = shutil.copytree(models / name, tmp_path / "models" / copy)
        for file in folder.rglob("config.json"):
            add(file, {key: value for key, value in ASKING.items() if value == HUB})
    log = tmp_path / "asked"
    package = tmp_path / "packages" / "kernels"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(KERNELS.format(log=str(log)))
    info = tmp_path / "packages" / "kernels-0.18.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    (info / "RECORD").write_text("kernels/__init__.py,,\n")
    program = LOAD.format(tests=str(PACK / "tests"), models=str(tmp_path / "models"))
    paths = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "loaded" in result.stdout, result.stderr
    assert "kernels: True" in result.stdout
    assert not log.exists(), log.read_text()
