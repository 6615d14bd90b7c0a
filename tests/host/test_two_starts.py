"""What one start of ComfyUI has computed of the image encoder, the next does not read again."""

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
EVENT = 16  # bytes: which file is watched, what happened, cookie, length of a name; no name here


class Opened:
    """Counts how often a file is opened, by any process and any library: the kernel says so."""

    def __init__(self, file: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.events = libc.inotify_init1(os.O_NONBLOCK)
        assert self.events >= 0
        assert libc.inotify_add_watch(self.events, os.fsencode(file), IN_OPEN) >= 0

    def times(self) -> int:
        """Since the last call. Equal events that wait together are one."""
        try:
            return len(os.read(self.events, 1000 * EVENT)) // EVENT
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self.events)


def pictures(base: Path, prompt: dict) -> list[bytes]:
    """Of one start."""
    with Server(host.ensure(HOST["version"]), base, cpu=True) as server:
        return [server.fetch(image) for image in server.run(prompt).images]


@pytest.fixture
def encoder(base) -> Path:
    """The image encoder's weights in a folder of ComfyUI's."""
    return base / "models" / "diffusers" / PRIOR / "image_encoder" / "model.safetensors"


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_text_to_image_reads_the_image_encoder_once(base, tiny_workflow, encoder):
    """With an empty negative prompt; then, to see that it counts, without what was kept."""
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
    """They are no weights any more then, of the same size and time; the words are those of a reader
    as soon as something does need them."""
    prompt = tiny_workflow("text_to_image")
    first, status = pictures(base, prompt), encoder.stat()
    encoder.write_bytes(b"\xff" * status.st_size)
    os.utime(encoder, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pictures(base, prompt) == first
    (encoder.parent / FILE).unlink()
    with pytest.raises(WorkflowError, match=r"image_encoder.model.safetensors is "):
        pictures(base, prompt)
