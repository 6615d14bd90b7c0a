"""Example Picture gives what ComfyUI's Load Image gives of the same file."""

import shutil

import folder_paths
import pytest
import torch
from helpers.checkout import PACK
from kandinsky22.nodes.example_picture import ExamplePicture
from PIL import Image

FILES = sorted((PACK / "web" / "pictures").iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_equals_load_image(path, tmp_path, monkeypatch):
    from nodes import LoadImage

    shutil.copy(path, tmp_path)
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    picture, mask = LoadImage().load_image(path.name)
    ours, our_mask = ExamplePicture.execute(path.name).args
    assert torch.equal(ours, picture)
    assert our_mask.shape == ours.shape[:3]
    if "A" in Image.open(path).getbands():
        assert torch.equal(our_mask, mask) and 0 < our_mask.mean() < 1
    else:
        assert not our_mask.any()


def test_the_node_lists_every_file():
    (choice,) = ExamplePicture.define_schema().inputs
    assert choice.options == [path.name for path in FILES]
    assert choice.default in choice.options


@pytest.mark.parametrize("name", ["../wire_colors.js", "/etc/hostname", "my cat.png", None, 3])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match="Choose one of the bundled pictures .*Load Image"):
        ExamplePicture.execute(name)
