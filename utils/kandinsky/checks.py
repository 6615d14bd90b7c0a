"""Values that travel on wires between nodes. Immutable: the host caches them and shares them.

The host looks at what is typed into a widget, and not at what comes into it over a wire, which can
be anything: what a verb counts on, it checks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

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


@dataclass(frozen=True, eq=False)
class ImageEmbeds:
    """CLIP image embeddings, what every decoding stage is conditioned on.

    `tensor` is float32 on the CPU, (B, D); D is 1280 for the published checkpoints.
    """

    tensor: torch.Tensor

    def __post_init__(self):
        tensor = self.tensor
        shape = tuple(getattr(tensor, "shape", ()))
        if not torch.is_tensor(tensor) or len(shape) != 2:
            raise ValueError(
                f"Image embeddings are a (batch, width) tensor, not {shape or tensor!r:.80}. They "
                "come from Prior, Encode Image or Zero Embeds."
            )
        if tensor.shape[0] == 0:
            raise ValueError("These image embeddings are an empty batch. At least one is needed.")
        tensor = tensor.detach().to("cpu", torch.float32)
        if not torch.isfinite(tensor).all():
            raise ValueError(
                "The image embeddings contain NaN or infinity. If a stage has just made them, load "
                "its model with weight_dtype fp32 or bf16; if they were loaded, make them again."
            )
        object.__setattr__(self, "tensor", tensor)

    @property
    def batch(self) -> int:
        return self.tensor.shape[0]

    @property
    def width(self) -> int:
        return self.tensor.shape[1]

    def check_width(self, width: int, taker: str) -> None:
        """Raises ValueError if these embeddings are not `width` wide, as `taker` needs them."""
        if self.width != width:
            raise ValueError(
                f"These image embeddings are {self.width} wide, and {taker} takes {width}: they "
                "come from another family of models. Load prior and decoder of one family, both "
                "published or both miniature."
            )
