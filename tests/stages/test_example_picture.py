"""Example Picture and Example Dataset give what ComfyUI's loaders give for the same files."""

import shutil

import folder_paths
import pytest
import torch
from helpers.checkout import PACK
from kandinsky22.nodes.example_picture import ExampleDataset, ExamplePicture
from PIL import Image

FOLDER = PACK / "web" / "pictures"
FILES = sorted(FOLDER.glob("*.png"))
DATASETS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


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


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_equals_load_image_text_from_folder(name, tmp_path, monkeypatch):
    from comfy_extras.nodes_dataset import LoadImageTextDataSetFromFolderNode

    shutil.copytree(FOLDER / name, tmp_path / name)
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    theirs, texts = LoadImageTextDataSetFromFolderNode.execute(name).args
    ours, captions = ExampleDataset.execute(name).args
    assert len(ours) == len(theirs) == 8 and all(captions)
    by_text = dict(zip(texts, theirs, strict=True))  # ComfyUI's order is that of the disk
    for picture, caption in zip(ours, captions, strict=True):
        assert torch.equal(picture, by_text[caption])


def test_the_node_lists_every_dataset():
    (choice,) = ExampleDataset.define_schema().inputs
    assert choice.options == DATASETS


@pytest.mark.parametrize("name", ["../pictures", "/etc", "my cats", None, 3])
def test_another_dataset_is_refused(name):
    with pytest.raises(ValueError, match="Choose one of the bundled datasets .*Load Image-Text"):
        ExampleDataset.execute(name)
