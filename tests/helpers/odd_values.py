"""Change one thing in JSON, as no correct program writes it."""

import copy
import random
from typing import Any

ODD = [None, True, 0, -1, 2**31, 2**63, 10**30, 0.5, float("nan"), "", "x", "\0", "../x", "\ud800"]
ODD += ["x" * 300, "🐈", [], [[]], {}, {"x": 1}, ["F32"], "F4", "F8_E4M3", "I64", "BOOL"]


def places(value: Any):
    """Yield (container, key) of everything within a value."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def mutated(value: Any, chance: random.Random) -> Any:
    """Return a copy with one to three changes: other values, some removed, some renamed."""
    root = [copy.deepcopy(value)]
    for _ in range(chance.randint(1, 3)):
        container, key = chance.choice(list(places(root)))
        deed = chance.choice(["replace", "replace", "remove", "rename"])
        if deed == "replace" or container is root:
            container[key] = copy.deepcopy(chance.choice(ODD))
        elif deed == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[str(chance.choice(ODD))] = container.pop(key)
        else:
            container.insert(key, copy.deepcopy(container[key]))
    return root[0]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return bytes that are cut, longer, or partly replaced."""
    place = chance.randrange(len(content) + 1)
    noise = chance.randbytes(chance.randint(1, 9))
    return chance.choice(
        [content[:place], content + noise, content[:place] + noise + content[place + len(noise) :]]
    )
