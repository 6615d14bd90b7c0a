"""A download in its own thread, so that the thread that watches it can stop it at any time."""

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
    """Make the model folder in `root`, or find it there. Return a message for the user.

    An interrupted download continues where it stopped. `on_progress` is called five times a second,
    and may raise to stop. It must not wait for a silent network, so the download has its own
    thread. Files that a folder of `elsewhere` has, byte for byte, are linked or copied from there.

    Raises:
        ValueError: the hub announced other content than it sent.
        OSError: no network, repository, access, disk space, …. The message says what to do.
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
        wait([outcome], timeout=1)  # it ends after its block, or later if it waits for the network
        raise
    try:
        return outcome.result()
    except OSError as error:
        if error.errno is None:  # an error of this pack, which says what to do
            raise
        raise OSError(
            f"Cannot write to {root}: {error}. Make room there, let it be written to, or name "
            "another folder for it; then run this again to go on."
        ) from error
