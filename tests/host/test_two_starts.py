"""A second start of ComfyUI does not compute again what the first has kept of the image encoder."""

import ctypes
import os
import sys
from pathlib import Path

import pytest
from helpers.checkout import HOST
from helpers.tiny_models import PRIOR
from kandinsky22.utils.files.zero_embeds import FILE

from scripts import host
from scripts.comfyui import Server, WorkflowError

IN_OPEN = 0x20
# Bytes: the watched file, the event, a cookie, the length of a name; there is no name here.
EVENT = 16


class Opened:
    """Counts how often a file is opened, by any process and any library, as the kernel reports."""

    def __init__(self, file: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.events = libc.inotify_init1(os.O_NONBLOCK)
        assert self.events >= 0
        assert libc.inotify_add_watch(self.events, os.fsencode(file), IN_OPEN) >= 0

    def times(self) -> int:
        """Return the count since the last call. Equal events that wait together count as one."""
        try:
            return len(os.read(self.events, 1000 * EVENT)) // EVENT
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self.events)


def pictures(base: Path, prompt: dict) -> list[bytes]:
    """Return the pictures of one start."""
    with Server(host.ensure(HOST["version"]), base, cpu=True) as server:
        return [server.fetch(image) for image in server.run(prompt).images]


@pytest.fixture
def encoder(base) -> Path:
    """Return the image encoder's weights in a folder of ComfyUI's."""
    return base / "models" / "diffusers" / PRIOR / "image_encoder" / "model.safetensors"


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_text_to_image_reads_the_image_encoder_once(base, tiny_workflow, encoder):
    """The negative prompt is empty.

    Then the test deletes the kept vector, to show that it counts.
    """
    prompt = tiny_workflow("text_to_image")
    assert {node["inputs"].get("negative_prompt", "") for node in prompt.values()} == {""}
    opened = Opened(encoder)
    try:
        first = pictures(base, prompt)
        assert first and opened.times() > 0
        assert pictures(base, prompt) == first
        assert opened.times() == 0
        (encoder.parent / FILE).unlink()
        assert pictures(base, prompt) == first
        assert opened.times() > 0
    finally:
        opened.close()


def test_the_second_start_does_not_miss_the_weights(base, tiny_workflow, encoder):
    """The file then has the same size and time, but no weights.

    Only a node that needs them fails.
    """
    prompt = tiny_workflow("text_to_image")
    first, status = pictures(base, prompt), encoder.stat()
    encoder.write_bytes(b"\xff" * status.st_size)
    os.utime(encoder, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pictures(base, prompt) == first
    (encoder.parent / FILE).unlink()
    with pytest.raises(WorkflowError, match=r"image_encoder.model.safetensors is "):
        pictures(base, prompt)
