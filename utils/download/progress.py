"""The progress of a download."""

import threading
from concurrent.futures import CancelledError


class Progress:
    """The progress so far.

    The thread of the download writes it, and the watching thread reads it.
    """

    def __init__(self):
        self.done = 0  # bytes
        self.total = 0
        self.doing = "Looking it up"
        self.stopped = threading.Event()

    def __str__(self):
        sizes = f": {size_text(self.done)} of {size_text(self.total)}" if self.total else ""
        return self.doing + sizes

    def advance(self, count: int = 0) -> None:
        """Add to the progress. Raise CancelledError when the watching thread has gone."""
        if self.stopped.is_set():
            raise CancelledError
        self.done += count


def size_text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
