"""Starts a command as a terminal does."""

import signal


def as_in_a_terminal() -> None:
    """What a shell starts in the background does not hear Ctrl+C; nor would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
