"""How far a download has come."""

import threading
from concurrent.futures import CancelledError


class Progress:
    """What a download has done so far: written by its thread, read by the one that watches."""

    def __init__(self):
        self.done = 0  # bytes
        self.total = 0
        self.doing = "Looking it up"
        self.stopped = threading.Event()

    def __str__(self):
        sizes = f": {size_text(self.done)} of {size_text(self.total)}" if self.total else ""
        return self.doing + sizes

    def advance(self, count: int = 0) -> None:
        """Raises CancelledError when the watching thread has gone."""
        if self.stopped.is_set():
            raise CancelledError
        self.done += count


def size_text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
