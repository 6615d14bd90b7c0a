"""A workflow in API form: its nodes by name, its inputs filled in."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

Slot = tuple[str, str]  # the id of a node, the name of one of its inputs

SEEDS = ("seed", "noise_seed")


def read_workflow(path: Path) -> dict:
    """Raises FileNotFoundError, and ValueError for what is not a workflow in API form."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Ours are in workflows/api/.")
    try:
        workflow = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        raise ValueError(
            f"{path} is in the form that the page saves, which a server cannot run. Open it in "
            "ComfyUI and choose Export (API) in the menu; the API form of the workflows in "
            "workflows/ is in workflows/api/."
        )
    nodes = workflow.items() if isinstance(workflow, dict) else []
    for number, node in nodes or [("", None)]:
        if not is_node(node):
            raise ValueError(
                f"{path} is not a workflow in API form: "
                + (f"{number!r} in it has no class_type and inputs." if number else "no nodes.")
            )
    for number, node in workflow.items():
        for name, value in node["inputs"].items():
            if is_wire(value) and value[0] not in workflow:
                raise ValueError(
                    f"{path}: {label(workflow, number)}.{name} comes from node {value[0]!r}, "
                    "which is not in it."
                )
    return workflow


def is_node(value) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
        return False
    meta = value.get("_meta") or {}
    titled = isinstance(meta, dict) and isinstance(meta.get("title") or "", str)
    return titled and isinstance(value.get("inputs"), dict)


def is_wire(value) -> bool:
    """As the host tells it."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return isinstance(value[0], str) and isinstance(value[1], int | float)


def names_of(number: str, node: dict) -> list[str]:
    """What a node may be called, the first that fits counts: "Prior (Kandinsky 2.2)", "Prior",
    "Kandinsky22Prior", "4"."""
    title, kind = (node.get("_meta") or {}).get("title") or "", node["class_type"]
    short = re.sub(r" \([^()]*\)$", "", title)
    return [title, short, kind, kind.removeprefix("Kandinsky22"), number]


def label(workflow: dict, number: str) -> str:
    """The shortest name that is this node's alone."""
    shorts = [names_of(*item)[1] for item in workflow.items()]
    short = names_of(number, workflow[number])[1]
    return short if short and shorts.count(short) == 1 else number


def find_nodes(workflow: dict, name: str) -> list[str]:
    for names in zip(*(names_of(*item) for item in workflow.items()), strict=True):
        found = [number for number, known in zip(workflow, names, strict=True) if known == name]
        if found:
            return found
    return []


def find_input(workflow: dict, name: str) -> Slot:
    """ "Prior.prompt" → ("4", "prompt"). Both halves may hold dots themselves.

    Raises ValueError, which lists what is near.
    """
    splits = [(name[: dot.start()], name[dot.end() :]) for dot in re.finditer(r"\.", name)]
    found = [
        (number, slot)
        for title, slot in splits
        for number in find_nodes(workflow, title)
        if slot in workflow[number]["inputs"]
    ]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{label(workflow, number)}.{slot}" for number, slot in found)
        raise ValueError(f"{name} may be several inputs: say {choices}.")
    known = [
        f"{label(workflow, n)}.{slot}" for n, node in workflow.items() for slot in node["inputs"]
    ]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    for title, slot in splits:
        for number in find_nodes(workflow, title):
            inputs = ", ".join(workflow[number]["inputs"])
            raise ValueError(f"{title} has no input {slot!r}{hint(near)} It has: {inputs}.")
    nodes = ", ".join(dict.fromkeys(label(workflow, number) for number in workflow))
    raise ValueError(f"The workflow has no input {name!r}{hint(near)} Its nodes: {nodes}.")


def hint(near: list[str]) -> str:
    return f"; near it: {', '.join(near)}." if near else "."


def fill(workflow: dict, values: dict[Slot, Any]) -> dict:
    """A workflow with other values in it; the given one stays as it is."""
    filled = dict(workflow)
    for (number, slot), value in values.items():
        node = filled[number]
        filled[number] = {**node, "inputs": {**node["inputs"], slot: value}}
    return filled


def content_id(workflow: dict) -> str:
    """The same for workflows that compute the same: titles do not count. 16 hexadecimal digits,
    so among a million two are alike once in 37 million times."""
    content = {n: (node["class_type"], node["inputs"]) for n, node in workflow.items()}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seeds(workflow: dict) -> dict[str, int]:
    """ "Decoder.seed" → 1, for every seed that is not wired."""
    return {
        f"{label(workflow, number)}.{slot}": node["inputs"][slot]
        for number, node in workflow.items()
        for slot in SEEDS
        if isinstance(node["inputs"].get(slot), int)
    }
