"""Start a command as a terminal does."""

import signal


def as_in_a_terminal() -> None:
    """Let the command receive Ctrl+C, which a shell keeps from commands in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
