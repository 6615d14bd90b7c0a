"""Embeddings come back from a file as they were, and nothing is written or read elsewhere."""

import json

import folder_paths
import pytest
import torch
from kandinsky22.nodes import embeds_files as files
from kandinsky22.utils.files.embeds import save_embeds
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds
from safetensors.torch import save_file


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The host's output and input folder are one temporary folder."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    return tmp_path


def test_saved_and_loaded_are_the_same(folders, embeds):
    for _ in range(2):  # a second file, not over the first
        saved = files.SaveEmbeds.execute(embeds(3), "some/where/cat").ui["embeds"][0]
    assert saved["filename"] == "cat_00002_.safetensors"
    name = f"{saved['subfolder']}/{saved['filename']}"
    assert files.LoadEmbeds.validate_inputs(name) is True
    loaded = files.LoadEmbeds.execute(name).args[0]
    assert torch.equal(loaded.tensor, embeds(3).tensor)
    assert name in files.LoadEmbeds.define_schema().inputs[0].options


@pytest.mark.parametrize("prefix", ["x" * 300, "x" * 300 + "/y", "a\0b"])
def test_a_name_that_no_disk_takes(folders, embeds, prefix):
    with pytest.raises(OSError, match="Nothing is saved under .* Choose another filename_prefix"):
        files.SaveEmbeds.execute(embeds(), prefix)
    assert not list(folders.rglob("*.safetensors"))


def test_nothing_else_is_saved(folders, embeds):
    with pytest.raises(ValueError, match="'x' came where a KANDINSKY22_EMBEDS belongs"):
        files.SaveEmbeds.execute("x", "a")
    with pytest.raises(ValueError, match="filename_prefix is 5, not a text"):
        files.SaveEmbeds.execute(embeds(), 5)


@pytest.mark.parametrize("prefix", ["../outside", "/etc/outside", "a/../../outside"])
def test_nothing_is_saved_outside(folders, embeds, prefix):
    inside = set(folders.parent.iterdir())
    with pytest.raises(Exception, match="outside the output folder"):
        files.SaveEmbeds.execute(embeds(), prefix)
    assert set(folders.parent.iterdir()) == inside


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "missing.safetensors",
        "",
        ".",
        "folder.safetensors",
        "x" * 300,
        "a\0b",
    ],
)
def test_nothing_is_loaded_from_outside(folders, embeds, name):
    outside = folders.parent / "secret.safetensors"
    save_embeds(embeds(), outside)
    (folders / "folder.safetensors").mkdir()
    try:
        assert "no file" in files.LoadEmbeds.validate_inputs(name)
        with pytest.raises(FileNotFoundError, match="no file"):
            files.LoadEmbeds.execute(name)
    finally:
        outside.unlink()


def damaged(folder):
    (folder / "x.safetensors").write_bytes(b"PK\3\4 not this")


def foreign(folder):
    save_file({"image_embeds": torch.zeros(1, 24)}, folder / "x.safetensors")


def truncated(folder):
    files.SaveEmbeds.execute(ImageEmbeds(torch.zeros(4, 24)), "y")
    whole = (folder / "y_00001_.safetensors").read_bytes()
    (folder / "x.safetensors").write_bytes(whole[:-20])


def huge_header(folder):
    (folder / "x.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def lying_header(folder):
    header = {"image_embeds": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 9999]}}
    text = json.dumps(header).encode()
    (folder / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize("write", [damaged, foreign, truncated, huge_header, lying_header])
def test_a_file_that_is_not_embeddings_is_refused(folders, write):
    write(folders)
    with pytest.raises(ValueError, match="x.safetensors (does not hold|is damaged)"):
        files.LoadEmbeds.execute("x.safetensors")
