"""A download in a thread of its own, so that whoever watches it can stop it at any time."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path

from . import hub
from .folder import make_folder
from .progress import Progress
from .repositories import Repository


def download(
    repository: Repository,
    root: Path,
    precision: str,
    on_progress: Callable[[Progress], None],
    elsewhere: Iterable[Path] = (),
) -> str:
    """Make the model folder in `root`, or find it there; returns what to tell the user.

    A download that was broken off goes on where it was. `on_progress` is called five times a
    second, and may raise to stop, which must not wait for a network that says nothing: so the work
    has a thread of its own. What is in one of the folders `elsewhere`, byte for byte, is linked or
    copied from there.

    Raises:
        ValueError: what came is not what the hub announced.
        OSError: no network, repository, access, disk space, …; all say what to do.
    """
    progress = Progress()
    outcome: Future[str] = Future()

    def work() -> None:
        try:
            with hub.translate_errors(repository.id, repository.commit):
                outcome.set_result(make_folder(repository, root, precision, progress, elsewhere))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while not wait([outcome], timeout=0.2).done:
            on_progress(progress)
        on_progress(progress)
    except BaseException:
        progress.stopped.set()
        wait([outcome], timeout=1)  # it ends with its block; one that waits for the network, later
        raise
    try:
        return outcome.result()
    except OSError as error:
        if error.errno is None:  # ours: it says what to do
            raise
        raise OSError(
            f"Cannot write to {root}: {error}. Make room there, let it be written to, or name "
            "another folder for it; then run this again to go on."
        ) from error
