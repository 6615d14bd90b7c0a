"""Make the pack and a ComfyUI importable, and tiny checkpoints for every test to load.

`kandinsky22` is this checkout, which also has `scripts`, `tools` and `benchmarks`. It is at the end
of the path because ComfyUI has top-level modules named `nodes` and `utils`, too.
"""

import sys
import types
import weakref
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from helpers.checkout import HOST, PACK  # noqa: E402

package = types.ModuleType("kandinsky22")
package.__path__ = [str(PACK)]
sys.modules["kandinsky22"] = package
sys.path.insert(0, HOST["comfyui"])
sys.path.append(str(PACK))

import comfy.cli_args  # noqa: E402
import utils.json_util  # noqa: E402, F401  # as main.py does: its nodes.py puts comfy/utils.py first

comfy.cli_args.args.cpu = True  # before any code asks ComfyUI for a device


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, metavar="N", help="N new random graphs in test_fuzz.py")
    parser.addoption("--soak", type=int, metavar="N", help="N prompts in test_soak.py")
    parser.addoption("--replay", metavar="FILE", help="one graph that test_fuzz.py kept")


def pytest_report_header():
    """Return the versions of the libraries that vary between environments."""
    names = "torch torchvision transformers diffusers accelerate huggingface_hub ray pyarrow"
    names = [*names.split(), "comfyui-frontend-package"]
    return f"ComfyUI {HOST['version']}: " + ", ".join(f"{n} {version(n)}" for n in names)


@pytest.fixture(autouse=True)
def inference_mode():
    """ComfyUI runs nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def nothing_shared(monkeypatch):
    """Every test loads its own models, which it can move, break or watch."""
    from kandinsky22.utils.comfyui import sharing

    monkeypatch.setattr(sharing, "ALIVE", weakref.WeakValueDictionary())


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder of tiny checkpoints that ComfyUI knows as one of its model folders."""
    import folder_paths
    from helpers import tiny_models

    folder = tmp_path_factory.mktemp("models")
    tiny_models.write_all(folder)
    tiny_models.write_depth_estimators(folder)
    folder_paths.add_model_folder_path("diffusers", str(folder))
    folder_paths.add_model_folder_path("depth_estimators", str(folder))
    return folder


@pytest.fixture(scope="session")
def prior(models):
    from kandinsky22.nodes.loaders import LoadPrior

    return LoadPrior.execute("kandinsky-2-2-tiny-prior", "default").args[0]


@pytest.fixture(scope="session")
def load_decoder(models):
    """Return a function name → (MODEL, VAE), which loads each decoder once through the node."""
    from kandinsky22.nodes.loaders import LoadDecoder

    loaded = {}

    def load(name: str = "kandinsky-2-2-tiny-decoder"):
        if name not in loaded:
            loaded[name] = LoadDecoder.execute(name, "default").args
        return loaded[name]

    return load


@pytest.fixture
def vae(load_decoder):
    """The tiny decoder's MoVQ as ComfyUI's VAE."""
    return load_decoder()[1]


@pytest.fixture(scope="session")
def embeds():
    """Return a function (batch, seed) → random ImageEmbeds."""
    from helpers import tiny_models
    from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

    def make(batch: int = 1, seed: int = 0, width: int = tiny_models.WIDTH):
        generator = torch.Generator().manual_seed(seed)
        return ImageEmbeds(torch.randn(batch, width, generator=generator))

    return make


@pytest.fixture
def pair(embeds):
    """(positive, negative) CONDITIONING, each of one random embedding."""
    from helpers.ksampler import conditioning

    return conditioning(embeds(1, 1)), conditioning(embeds(1, 2))
