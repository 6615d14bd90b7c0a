"""Embeddings in a file keep their bits, and no other place is read or written."""

import json
import os

import folder_paths
import pytest
import torch
from kandinsky22.nodes import embeds_files as files
from kandinsky22.utils.files.embeds import FILE_FORMAT, save_embeds
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds
from safetensors.torch import save_file


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """ComfyUI's output and input folder are one temporary folder."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    return tmp_path


def test_saved_and_loaded_are_the_same(folders, embeds):
    for _ in range(2):  # the second run makes a second file
        saved = files.SaveEmbeds.execute(embeds(3), "some/where/cat").ui["embeds"][0]
    assert saved["filename"] == "cat_00002_.safetensors"
    name = f"{saved['subfolder']}/{saved['filename']}"
    assert files.LoadEmbeds.validate_inputs(name) is True
    loaded = files.LoadEmbeds.execute(name).args[0]
    assert torch.equal(loaded.tensor, embeds(3).tensor)
    assert name in files.LoadEmbeds.define_schema().inputs[0].options


@pytest.mark.parametrize("name", ["image_embeds", "embeds", "a mean of many"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_tensor_in_a_file_of_others(folders, embeds, name, dtype):
    save_file({name: embeds(3).tensor.to(dtype)}, folders / "x.safetensors")
    loaded = files.LoadEmbeds.execute("x.safetensors").args[0]
    assert torch.equal(loaded.tensor, embeds(3).tensor.to(dtype).float())


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({}, "x.safetensors does not hold image embeddings: it has 0 tensors"),
        ({"a": torch.ones(1, 2), "b": torch.ones(1, 2)}, "it has 2 tensors, and was not written"),
        ({"a": torch.ones(1, 2).int()}, "its numbers are I32, of shape"),
        ({"a": torch.ones(24)}, r"x.safetensors cannot be used: .* not \(24,\)"),
    ],
)
def test_other_files_are_refused(folders, tensors, message):
    save_file(tensors, folders / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        files.LoadEmbeds.execute("x.safetensors")


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
    both = {"image_embeds": torch.zeros(1, 24), "negative": torch.zeros(1, 24)}
    save_file(both, folder / "x.safetensors")


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


def written(folder, tensor, name="image_embeds", format=FILE_FORMAT):
    """Write a file with our mark and other content."""
    save_file({name: tensor}, folder / "x.safetensors", metadata={"format": format})


def header_of(dtype, shape, size):
    """Return a function that writes a file by hand, with `size` zeros."""

    def write(folder):
        tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
        header = {"__metadata__": {"format": FILE_FORMAT}, "image_embeds": tensor}
        text = json.dumps(header).encode()
        with (folder / "x.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + size)  # a hole in the file takes no room

    return write


OURS_AND_ODD = {
    "no such tensor": (lambda folder: written(folder, torch.ones(1, 24), "embeds"), "damaged"),
    "bool": (lambda folder: written(folder, torch.ones(1, 24).bool()), "numbers are BOOL"),
    "int": (lambda folder: written(folder, torch.ones(1, 24).int()), "numbers are I32"),
    "F8": (lambda folder: written(folder, torch.ones(1, 24).to(torch.float8_e4m3fn)), "are F8"),
    # The message depends on the version.
    "F4": (header_of("F4", [1, 24], 12), "numbers are F4|damaged"),
    "no dtype": (header_of("F33", [1, 24], 96), "damaged"),
    "a scalar": (lambda folder: written(folder, torch.tensor(1.0)), "tensor"),
    "rank 1": (lambda folder: written(folder, torch.ones(24)), r"not \(24,\)"),
    "rank 3": (lambda folder: written(folder, torch.ones(1, 1, 24)), r"not \(1, 1, 24\)"),
    "empty batch": (lambda folder: written(folder, torch.ones(0, 24)), "empty batch"),
    "no width": (lambda folder: written(folder, torch.ones(3, 0)), "0 wide"),
    "NaN": (lambda folder: written(folder, torch.full((1, 24), float("nan"))), "NaN or infinity"),
    "infinite": (lambda folder: written(folder, torch.full((1, 24), float("inf"))), "NaN or inf"),
    "too large": (lambda f: written(f, torch.full((1, 9), 1e300, dtype=torch.float64)), "infinity"),
    "large": (header_of("F32", [2**24, 128], 2**33), r"of shape \[16777216, 128\]"),
    # The message depends on the memory.
    "huge": (header_of("F32", [2**31, 128], 2**40), "of shape|cannot be read"),
    "huge and empty": (header_of("F32", [2**62, 0], 0), "0 wide|damaged"),
    "overflow": (header_of("F32", [2**62, 2**62], 96), "damaged"),
    "negative": (header_of("F32", [-1, 24], 96), "damaged"),
    "deep": (header_of("F32", [[[1]]], 96), "damaged"),
    "another mark": (lambda f: written(f, torch.ones(1, 9), format="x" * 10**6), "does not hold"),
    "nothing": (lambda folder: (folder / "x.safetensors").touch(), "damaged|cannot be read"),
    "7 bytes": (lambda folder: (folder / "x.safetensors").write_bytes(b"\0" * 7), "damaged"),
    "ends early": (
        lambda f: (f / "x.safetensors").write_bytes(b"\x50" + bytes(7) + b"{"),
        "damaged",
    ),
}


@pytest.mark.parametrize("write, message", OURS_AND_ODD.values(), ids=OURS_AND_ODD)
def test_a_file_with_our_mark_and_odd_contents(folders, write, message):
    write(folders)
    with pytest.raises((ValueError, OSError), match=message) as refused:
        files.LoadEmbeds.execute("x.safetensors")
    assert str(refused.value).startswith("x.safetensors ") and len(str(refused.value)) < 500


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_numbers_that_are_floating(folders, dtype):
    written(folders, torch.full((2, 24), 0.5, dtype=dtype))
    assert files.LoadEmbeds.execute("x.safetensors").args[0].tensor.eq(0.5).all()


def test_what_was_loaded_stays_when_the_file_changes(folders):
    written(folders, torch.ones(2000, 24))
    loaded = files.LoadEmbeds.execute("x.safetensors").args[0].tensor
    with (folders / "x.safetensors").open("r+b") as file:
        file.truncate(100)
    assert loaded.eq(1).all()


def test_a_file_that_cannot_be_read(folders, monkeypatch):
    """A link leads into a folder of the kernel that cannot be read in this way."""
    (folders / "x.safetensors").symlink_to("/proc/self/mem")
    with pytest.raises((OSError, ValueError), match="^x.safetensors (cannot be read|is damaged)"):
        files.LoadEmbeds.execute("x.safetensors")


def test_what_is_odd_in_the_input_folder_keeps_nothing_from_the_list(folders, embeds):
    (folders / "sub" / "deeper").mkdir(parents=True)
    for name in ("a", "sub/b", "sub/deeper/c"):
        save_embeds(embeds(), folders / f"{name}.safetensors")
    (folders / "folder.safetensors").mkdir()
    (folders / "sub" / "loop").symlink_to(folders)
    (folders / "itself.safetensors").symlink_to("itself.safetensors")
    (folders / "nothing.safetensors").symlink_to("nothing")
    (folders / "linked.safetensors").symlink_to("a.safetensors")
    os.mkfifo(folders / "pipe.safetensors")
    deep = folders
    for _ in range(20):  # longer than a path may be
        deep = os.open(folders, os.O_RDONLY) if deep is folders else deep
        os.mkdir("x" * 250, dir_fd=deep)
        deep, old = os.open("x" * 250, os.O_RDONLY, dir_fd=deep), deep
        os.close(old)
    os.close(deep)
    names = ["a", "linked", "sub/b", "sub/deeper/c"]
    expected = [f"{name}.safetensors" for name in names]
    assert files.LoadEmbeds.define_schema().inputs[0].options == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions than these")
def test_a_folder_that_may_not_be_read(folders, embeds):
    """The user of this run may not read the folder."""
    for folder in ("open", "closed"):
        (folders / folder).mkdir()
        save_embeds(embeds(), folders / folder / "a.safetensors")
    (folders / "closed").chmod(0)
    (folders / "open" / "a.safetensors").chmod(0)
    if is_root := os.geteuid() == 0:  # root may read everything, so the test becomes another user
        for folder in (folders, *folders.parents):
            if folder.stat().st_uid == 0 and len(folder.parts) > 2:
                folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        assert files.LoadEmbeds.define_schema().inputs[0].options == ["open/a.safetensors"]
        with pytest.raises(OSError, match="^a.safetensors cannot be read"):
            files.LoadEmbeds.execute("open/a.safetensors")
    finally:
        if is_root:
            os.seteuid(0)
        (folders / "closed").chmod(0o700)
