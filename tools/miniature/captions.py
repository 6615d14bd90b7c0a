"""Captions for scenes: the vocabulary, what a sentence may leave out, and what that means.

A sentence describes the whole picture. Without a size the shape is medium, without a place it is in
the centre. Without a background the background is white (black for a white shape). Without a colour
the shape is red (blue on red). "shape" in place of a shape's name is any shape. A tag ("circle",
"blue background", "on the left") names one thing and leaves the rest open. It is the form for
negative prompts.
"""

from __future__ import annotations

import random

from .shapes import COLOURS, PLACES, SHAPES, SIZES

OPEN = -1  # the caption leaves this open: any value fits
WHERE = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "centre": ("in the centre", "in the center", "in the middle"),
}
PREFIXES = ("a picture of ", "a photo of ", "an image of ", "a drawing of ", "there is ")
WORDS = sorted(
    {*SHAPES, *COLOURS, *PLACES, *SIZES, "center", "middle", "shape", "background", "big"}
    | {"a", "an", "of", "on", "in", "at", "the", "with", "there", "is", "and", "to"}
    | {"picture", "photo", "image", "drawing", "side", "no", "not", "very", "small", "bright"}
)


def default_background(colour: int) -> int:
    """Return the default background: white, or black for a white shape."""
    return COLOURS.index("black" if COLOURS[colour] == "white" else "white")


def default_colour(background: int) -> int:
    """Return the default colour: red, or blue on a red background."""
    return COLOURS.index("blue" if COLOURS[background] == "red" else "red")


def write_tag(labels: list[int], draw: random.Random) -> tuple[str, list[int]]:
    """Write a tag: one attribute is named, and the rest is open."""
    which = draw.choice([0, 0, 1, 1, 2, 3, 4])
    meant = [OPEN] * 5
    meant[which] = labels[which]
    shape, colour, background, place, size = labels
    text = [
        lambda: SHAPES[shape],
        lambda: COLOURS[colour],
        lambda: draw.choice(["", "a "]) + COLOURS[background] + " background",
        lambda: draw.choice([*WHERE[PLACES[place]], PLACES[place]]),
        lambda: SIZES[size],
    ][which]()
    return text, meant


def write_sentence(
    labels: list[int], draw: random.Random, omit: float = 0.5
) -> tuple[str, list[int]]:
    """Write a sentence, and return what it means.

    The meaning has 5 labels. It is OPEN for a shape that is only "a shape".

    `omit` is the chance that an attribute with its default value is left out.
    """
    shape, colour, background, place, size = labels
    meant = list(labels)
    noun = SHAPES[shape]
    if draw.random() < 0.15:
        noun, meant[0] = "shape", OPEN
    hide_colour = colour == default_colour(background) and draw.random() < omit * 0.4
    hide_background = background == default_background(colour) and draw.random() < omit
    hide_place = PLACES[place] == "centre" and draw.random() < omit
    if hide_colour and hide_background and COLOURS[colour] != "red":
        hide_colour = False
    says_medium = draw.random() >= max(omit, 0.8)
    size_word = "large " if SIZES[size] == "large" else ("medium " if says_medium else "")
    thing = size_word + ("" if hide_colour else COLOURS[colour] + " ") + noun
    where = "" if hide_place else draw.choice(WHERE[PLACES[place]])
    ground = "" if hide_background else f"a {COLOURS[background]} background"
    style = draw.random()
    if style < 0.1 and ground:
        text = f"{ground} with a {thing}" + (f" {where}" if where else "")
    elif style < 0.2 and (ground or where):
        text = ", ".join(part for part in (thing, ground[2:], where) if part)
    elif style < 0.3 and where:
        text = f"{where}, a {thing}" + (f" on {ground}" if ground else "")
    elif style < 0.45 and where:
        text = f"a {thing} {where}" + (f", on {ground}" if ground else "")
    else:
        text = f"a {thing}" + (f" on {ground}" if ground else "")
        text += draw.choice([", ", " "]) + where if where else ""
    if text.startswith("a ") and draw.random() < 0.15:
        text = draw.choice(PREFIXES) + text
    return text, meant


def write_caption(labels: list[int], draw: random.Random) -> tuple[str, list[int]]:
    """Write a training caption: mostly sentences, some tags, and sometimes an unknown word."""
    text, meant = write_tag(labels, draw) if draw.random() < 0.15 else write_sentence(labels, draw)
    if draw.random() < 0.04:
        text += " " + "".join(draw.choices("abcdefghijklmnoprstuwyz", k=draw.randint(3, 6)))
    return text, meant
