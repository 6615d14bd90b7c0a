"""Folders of models and of LoRA files that tests may damage and fill."""

import shutil

import folder_paths
import pytest


@pytest.fixture
def broken(models, tmp_path):
    """Return a function name → a copy of that checkpoint's folder, named `broken`, to damage."""

    def copy(name):
        folder = models / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(models / name, folder)
        return folder

    yield copy
    shutil.rmtree(models / "broken", ignore_errors=True)


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    folder_paths.add_model_folder_path("loras", str(folder))
    return folder
