"""Fixtures: a hub with tiny copies of the published models, and the command that downloads them."""

import os
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest
from helpers import tiny_models
from helpers.checkout import PACK
from helpers.hub_server import Hub
from helpers.published_models import DECODER, TINY, TINY_FILES, UNWANTED, listed
from helpers.terminal import as_in_a_terminal
from huggingface_hub import constants, file_download
from kandinsky22.utils.download import transfer
from kandinsky22.utils.download.repositories import REPOSITORIES


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """Tiny versions of the six repositories."""
    folder = tmp_path_factory.mktemp("published")
    tiny_models.write_all(folder, "kandinsky-2-2")
    tiny_models.write_depth_estimators(folder)
    (folder / "tiny-depth-anything").rename(folder / "Depth-Anything-V2-Small-hf")
    (folder / "tiny-dpt").rename(folder / "dpt-large")
    return folder


@pytest.fixture
def hub(published):
    with Hub() as running:
        for name, repository in REPOSITORIES.items():
            running.add(repository, published / name)
        running.repositories[DECODER.id, DECODER.commit] |= UNWANTED
        yield running


@pytest.fixture
def models_dir(tmp_path, monkeypatch) -> Path:
    """An empty models folder, which ComfyUI knows as its only one."""
    for kind in ("diffusers", "depth_estimators"):
        place = ([str(tmp_path / "models" / kind)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, place)
    return tmp_path / "models"


@pytest.fixture
def start(hub, models_dir, tmp_path):
    """Return a function that starts the command. Its environment may be changed."""

    def run(*arguments: str, preexec_fn=as_in_a_terminal, **environment: str) -> subprocess.Popen:
        here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        return subprocess.Popen(
            [sys.executable, PACK / "scripts" / "get_models.py", "--models-dir", models_dir]
            + list(arguments),
            env=os.environ | here | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec_fn,
        )

    return run


@pytest.fixture
def get(start):
    """Return a function that runs the command, which must succeed, and returns its output."""

    def run(*arguments: str, **environment) -> str:
        process = start(*arguments, **environment)
        said, complained = process.communicate()
        assert process.returncode == 0, complained
        return said

    return run


@pytest.fixture
def refuse(start, models_dir):
    """Return a function that runs the command. It must fail and leave nothing like a model."""

    def run(*arguments: str, **environment) -> str:
        process = start(*arguments, **environment)
        _, complained = process.communicate()
        assert process.returncode == 1, complained
        assert "Traceback" not in complained
        assert listed() == set()
        # Other loaders of ComfyUI look for these, at any depth.
        assert not list(models_dir.rglob("model_index.json"))
        return complained

    return run


@pytest.fixture
def tiny_hub(monkeypatch, tmp_path):
    """A hub with one very small model, for downloads in this process."""
    with Hub() as running:
        running.repositories[TINY.id, TINY.commit] = dict(TINY_FILES)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        for module in (constants, file_download):  # before 1.0, file_download has a copy of it
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(transfer, "PAUSE", 0.01)
        yield running
