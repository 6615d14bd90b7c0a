"""Checks of numbers, texts and choices.

ComfyUI checks the values that a user types into a widget. It does not check values that come over a
wire, which can be anything. So every function checks the values that it relies on.
"""

from collections.abc import Iterable
from typing import Any

MOST_ITEMS = 4096  # the most items that one node makes


def plain(value: Any) -> Any:
    """Return a scalar of numpy or torch as Python's own number, and anything else unchanged."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, ValueError):  # a tensor on the meta device
        return value


def check_numbers(**values: Any) -> list[Any]:
    """Return the values as Python's own numbers.

    Raises:
        ValueError: a value is not a number, or float32 cannot hold it. True and False are not
            numbers.
    """
    numbers = [plain(value) for value in values.values()]
    for name, value in zip(values, numbers, strict=True):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < 1e38:
            raise ValueError(
                f"{name} is {value!r:.80}, not a finite number. Connect one, or type it in."
            )
    return numbers


def check_whole_numbers(**values: Any) -> list[int]:
    """Return the values as Python's own. Raise ValueError for one that is not a whole number."""
    numbers = check_numbers(**values)
    for name, value in zip(values, numbers, strict=True):
        if not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}, and has to be a whole number.")
    return numbers


def check_counts(**values: Any) -> list[int]:
    """Return the values as Python's own.

    Raises:
        ValueError: a value is not a whole number from 1 to MOST_ITEMS.
    """
    numbers = check_whole_numbers(**values)
    for name, value in zip(values, numbers, strict=True):
        if not 1 <= value <= MOST_ITEMS:
            raise ValueError(f"{name} is {value}; it goes from 1 to {MOST_ITEMS}.")
    return numbers


def check_switch(name: str, value: Any) -> bool:
    """Return the value as a bool. Raise ValueError if it is not True, False, 1 or 0."""
    value = plain(value)
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{name} is {value!r:.80}; it is either True or False.")
    return bool(value)


def check_texts(**values: Any) -> None:
    """Raise ValueError for a value that is not a text, or that contains half of a character."""
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
    """Raise ValueError for a value that is not one of the choices."""
    if not isinstance(value, str) or value not in tuple(choices):
        raise ValueError(f"{name} is {value!r:.80}; choose one of {', '.join(choices)}.")
