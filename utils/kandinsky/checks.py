"""Checks of numbers, texts and choices.

ComfyUI checks what is typed into a widget. It does not check what comes into a widget over a wire,
which can be anything; so every function checks the values that it relies on.
"""

from collections.abc import Iterable
from typing import Any

MOST_ITEMS = 4096  # that one node makes


def check_numbers(**values: Any) -> None:
    """Raises ValueError for a value that is no number, or none that float32 has."""
    for name, value in values.items():
        if not isinstance(value, int | float) or not abs(value) < 1e38:
            raise ValueError(
                f"{name} is {value!r:.80}, not a finite number. Connect one, or type it in."
            )


def check_whole_numbers(**values: Any) -> None:
    """Raises ValueError for a value that is no whole number."""
    check_numbers(**values)
    for name, value in values.items():
        if not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}, and has to be a whole number.")


def check_counts(**values: Any) -> None:
    """Raises ValueError for a value that is no whole number from 1 to MOST_ITEMS."""
    check_whole_numbers(**values)
    for name, value in values.items():
        if not 1 <= value <= MOST_ITEMS:
            raise ValueError(f"{name} is {value}; it goes from 1 to {MOST_ITEMS}.")


def check_texts(**values: Any) -> None:
    """Raises ValueError for a value that is no text, or has half a character in it."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r:.80}, not a text. Connect one, or type it in.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} has half a character (a lone surrogate) at place {error.start + 1}: "
                f"{value!r:.80}. Type it in again."
            ) from error


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError for a value that is not one of the choices."""
    if value not in tuple(choices):
        raise ValueError(f"{name} is {value!r:.80}; choose one of {', '.join(choices)}.")
