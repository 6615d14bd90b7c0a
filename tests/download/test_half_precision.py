"""Safetensors files are stored in fp16 without being read whole."""

import tracemalloc

import pytest
import torch
from kandinsky22.utils.download.half_precision import BLOCK, read_header, store_as_fp16
from safetensors import safe_open
from safetensors.torch import load_file, save_file

TENSORS = {
    "wide": torch.tensor([1.0, -0.1, 1e-7, 65504.0, float("inf")]),
    "wider": torch.linspace(-1, 1, 7, dtype=torch.float64).view(7, 1),
    "half": torch.tensor([0.1, 3.0], dtype=torch.float16),
    "brain": torch.tensor([1e30], dtype=torch.bfloat16),
    "positions": torch.arange(5),
    "mask": torch.tensor([True, False, True]),
    "small": torch.tensor([7], dtype=torch.int32),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
}


def halved(folder, tensors, metadata=None):
    save_file(tensors, folder / "old.safetensors", metadata=metadata)
    assert store_as_fp16(folder / "old.safetensors", folder / "new.safetensors", lambda: None)
    return load_file(folder / "new.safetensors")


def test_what_is_wide_is_halved_and_all_else_kept(tmp_path):
    found = halved(tmp_path, TENSORS, {"format": "pt"})
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        expected = tensor.half() if tensor.dtype in (torch.float32, torch.float64) else tensor
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected), name
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    with (tmp_path / "new.safetensors").open("rb") as file:
        header, data = read_header(file)
    for name, tensor in found.items():  # so that others may map it into memory
        assert (data + header[name]["data_offsets"][0]) % tensor.element_size() == 0


def test_a_tensor_of_many_blocks(tmp_path):
    tensor = torch.randn(BLOCK // 2 + 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(halved(tmp_path, {"a": tensor})["a"], tensor.half())


def test_a_file_that_is_half_already_is_not_written_again(tmp_path):
    save_file({"a": torch.ones(3).half()}, tmp_path / "old.safetensors")
    assert not store_as_fp16(tmp_path / "old.safetensors", tmp_path / "new", lambda: None)
    assert not (tmp_path / "new").exists()


def test_a_number_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="a in .* has numbers that float16 cannot hold"):
        halved(tmp_path, {"a": torch.tensor([1.0] * 100 + [70000.0])})


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x02" + bytes(7) + b"{}x"])
def test_what_is_not_such_a_file(tmp_path, content):
    (tmp_path / "old").write_bytes(content)
    if content.endswith(b"}x"):
        assert not store_as_fp16(tmp_path / "old", tmp_path / "new", lambda: None)
    else:
        with pytest.raises(ValueError, match="is not a safetensors file"):
            store_as_fp16(tmp_path / "old", tmp_path / "new", lambda: None)


def test_memory_does_not_grow_with_the_tensor(tmp_path):
    save_file({"a": torch.zeros(200_000_000 // 4)}, tmp_path / "old")
    tracemalloc.start()
    store_as_fp16(tmp_path / "old", tmp_path / "new", lambda: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * BLOCK  # the block, its half as numbers, and as bytes


@pytest.mark.parametrize("missing", [1, 4, 1000])
def test_a_file_that_ends_too_early(tmp_path, missing):
    save_file({"wide": torch.ones(300)}, tmp_path / "old")
    content = (tmp_path / "old").read_bytes()
    (tmp_path / "old").write_bytes(content[:-missing])
    with pytest.raises(ValueError, match="old ends too early. Download it again"):
        store_as_fp16(tmp_path / "old", tmp_path / "new", lambda: None)
