"""Store the float32 tensors of a safetensors file as float16, a block at a time.

The file has 8 bytes with the header's size, a JSON header (name → dtype, shape, data_offsets), and
the data.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

BLOCK = 2**24  # bytes at a time, whatever the size of a tensor
WIDE = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}  # tensors of other types stay as they are
HALF = np.dtype("<f2")
ITEM_SIZE = {"I64": 8, "U64": 8, "C64": 8, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2}


def has_wide_numbers(source: Path) -> bool:
    """Return whether `source` has F32 or F64. Raise ValueError if it is not a safetensors file."""
    with source.open("rb") as file:
        header, _ = read_header(file)
    return is_wide(header)


def is_wide(header: dict[str, Any]) -> bool:
    tensors = (tensor for name, tensor in header.items() if name != "__metadata__")
    return any(tensor["dtype"] in WIDE for tensor in tensors)


def store_as_fp16(source: Path, target: Path, on_block: Callable[[], None]) -> bool:
    """Write `source` to `target` with F16 in place of F32 and F64.

    Returns:
        False if `source` has no such tensors. Then no target is written.

    Raises:
        ValueError: `source` is not a safetensors file, or has numbers that float16 cannot hold.
    """
    with source.open("rb") as old:
        header, data = read_header(old)
        metadata = {"__metadata__": header.pop("__metadata__")} if "__metadata__" in header else {}
        if not is_wide(header):
            return False
        layout = fp16_layout(header)
        text = json.dumps(metadata | layout).encode()
        text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
        with target.open("wb") as new:
            new.write(len(text).to_bytes(8, "little") + text)
            for name in layout:
                begin, end = header[name]["data_offsets"]
                old.seek(data + begin)
                try:
                    copy(old, new, end - begin, WIDE.get(header[name]["dtype"]), on_block)
                except FloatingPointError as error:
                    raise ValueError(
                        f"{name} in {source} has numbers that float16 cannot hold. Choose fp32."
                    ) from error
    return True


def read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the header, and the position at which the data starts."""
    size = int.from_bytes(file.read(8), "little")
    try:
        header: Any = json.loads(file.read(min(size, 100_000_000)))  # the format's own limit
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not a safetensors file: {error}.") from error
    tensors = header.items() if isinstance(header, dict) else [("the header", header)]
    for name, tensor in tensors:
        if name != "__metadata__" and not is_tensor(tensor):
            raise ValueError(f"{file.name} is not a safetensors file: {name} is {tensor!r:.80}.")
    return header, 8 + size


def is_tensor(entry: Any) -> bool:
    """Return whether an entry of a header gives the place of its numbers, as whole numbers."""
    match entry:
        case {"dtype": str(dtype), "data_offsets": [int(begin), int(end)]}:
            wide = WIDE.get(dtype)
            return 0 <= begin <= end and (end - begin) % (wide.itemsize if wide else 1) == 0
        case _:
            return False


def fp16_layout(header: dict[str, Any]) -> dict[str, Any]:
    """Return the header of the same tensors in float16, with wide items first to align them all."""
    layout: dict[str, Any] = {}
    dtypes = {name: "F16" if t["dtype"] in WIDE else t["dtype"] for name, t in header.items()}
    end = 0
    for name in sorted(header, key=lambda name: -ITEM_SIZE.get(dtypes[name], 1)):
        start, stop = header[name]["data_offsets"]
        wide = WIDE.get(header[name]["dtype"])
        size = (stop - start) // wide.itemsize * HALF.itemsize if wide else stop - start
        layout[name] = header[name] | {"dtype": dtypes[name], "data_offsets": [end, end + size]}
        end += size
    return layout


def copy(
    old: BinaryIO, new: BinaryIO, size: int, wide: np.dtype | None, on_block: Callable[[], None]
) -> None:
    """Copy a tensor. Raise FloatingPointError if a finite number would become infinite."""
    while size:
        block = old.read(min(size, BLOCK))
        if len(block) < min(size, BLOCK):
            raise ValueError(f"{old.name} ends too early. Download it again.")
        size -= len(block)
        if wide:
            with np.errstate(over="raise"):
                new.write(np.frombuffer(block, wide).astype(HALF).tobytes())
        else:
            new.write(block)
        on_block()
