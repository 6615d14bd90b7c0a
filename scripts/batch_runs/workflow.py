"""A workflow in API form: find its nodes by name, and fill in its inputs."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

Slot = tuple[str, str]  # the id of a node, the name of one of its inputs

SEEDS = ("seed", "noise_seed")
LAST_BRACKETS = r" \([^()]*\)$"
# What a title in workflows/api/ says, as in "Empty Latent Image (published: width=768, height=768)"
PUBLISHED = re.compile(r" \(published: ([^()]*)\)$")


def read_workflow(path: Path) -> dict:
    """Read a workflow in API form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a workflow in API form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Ours are in workflows/api/.")
    try:
        workflow = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        raise ValueError(
            f"{path} is in the form that ComfyUI's web interface saves, which a server cannot run. "
            "Open it in ComfyUI and choose Export (API) in the menu. The API form of the "
            "workflows in workflows/ is in workflows/api/."
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


def for_published_weights(workflow: dict) -> dict:
    """Return a workflow with the models and sizes that the titles of its nodes name.

    Raises:
        ValueError: no title names any, or one names what its node does not have.
    """
    values = {}
    for number, node in workflow.items():
        said = PUBLISHED.search((node.get("_meta") or {}).get("title") or "")
        for name, value in re.findall(r"(\w+)=([\w.-]+)", said[1] if said else ""):
            if name not in node["inputs"] or is_wire(node["inputs"][name]):
                raise ValueError(
                    f"--published: the title of {label(workflow, number)} sets {name}, which that "
                    "node does not have as a value. Correct the title, or use --set."
                )
            values[number, name] = int(value) if value.isdecimal() else value
    if not values:
        raise ValueError(
            "--published changes what the titles of nodes name, and no title in this workflow has "
            '"(published: …)". The files in workflows/api/ have it. Use --set for other workflows.'
        )
    return fill(workflow, values)


def is_node(value) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
        return False
    meta = value.get("_meta") or {}
    titled = isinstance(meta, dict) and isinstance(meta.get("title") or "", str)
    return titled and isinstance(value.get("inputs"), dict)


def is_wire(value) -> bool:
    """Return whether a value is a wire, by ComfyUI's own rule."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return isinstance(value[0], str) and isinstance(value[1], int | float)


def names_of(number: str, node: dict) -> list[str]:
    """Return the possible names of a node, the best first.

    Examples are "Prior (Kandinsky 2.2)", "Prior", "Kandinsky22Prior" and "4". A
    Kandinsky22LoadDecoder with another title is also "Load Decoder".
    """
    title, kind = (node.get("_meta") or {}).get("title") or "", node["class_type"]
    short = kind.removeprefix("Kandinsky22")
    titles = [title, re.sub(LAST_BRACKETS, "", title), short_title(node)]
    return [*titles, kind, short, number, letters(title), letters(short)]


def short_title(node: dict) -> str:
    """Return the title without the brackets after it: "Prior (Kandinsky 2.2)" → "Prior"."""
    return re.sub(r"( \([^()]*\))+$", "", (node.get("_meta") or {}).get("title") or "")


def letters(name: str) -> str:
    """Return the letters of a name, so that "Load Decoder" equals "LoadDecoder"."""
    return "".join(filter(str.isalnum, name)).lower()


def label(workflow: dict, number: str) -> str:
    """Return the shortest name that only this node has."""
    shorts = [short_title(node) for node in workflow.values()]
    short = short_title(workflow[number])
    return short if short and shorts.count(short) == 1 else number


def find_nodes(workflow: dict, name: str, slot: str | None = None) -> list[str]:
    """Return the nodes with that name and that input.

    An exact name counts before one that only resembles it.
    """
    nodes = {n: node for n, node in workflow.items() if slot is None or slot in node["inputs"]}
    wanted = [name] * 6 + [letters(name)] * 2
    for names, like in zip(
        zip(*(names_of(*item) for item in nodes.items()), strict=True), wanted, strict=False
    ):
        if found := [n for n, known in zip(nodes, names, strict=True) if like and known == like]:
            return found
    return []


def find_input(workflow: dict, name: str) -> Slot:
    """Return the input for a name: "Prior.prompt" → ("4", "prompt"). Both parts may contain dots.

    Raises:
        ValueError: there is none, or several. The message lists similar names.
    """
    splits = [(name[: dot.start()], name[dot.end() :]) for dot in re.finditer(r"\.", name)]
    found = [
        (number, slot) for title, slot in splits for number in find_nodes(workflow, title, slot)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{label(workflow, number)}.{slot}" for number, slot in found)
        raise ValueError(f"{name} may be several inputs: say {choices}.")
    near = near_inputs(workflow, name, [slot for _, slot in splits])
    for title, slot in splits:
        for number in find_nodes(workflow, title):
            inputs = ", ".join(workflow[number]["inputs"])
            raise ValueError(f"{title} has no input {slot!r}{hint(near)} It has: {inputs}.")
    nodes = ", ".join(dict.fromkeys(label(workflow, number) for number in workflow))
    raise ValueError(f"The workflow has no input {name!r}{hint(near)} Its nodes: {nodes}.")


def near_inputs(workflow: dict, name: str, slots: list[str]) -> list[str]:
    """Return the most similar inputs. Nodes that have an input of that name come first."""
    known = {
        f"{label(workflow, n)}.{slot}": slot
        for n, node in workflow.items()
        for slot in node["inputs"]
    }
    same = [full for full, slot in known.items() if slot in slots]
    return difflib.get_close_matches(name, same or known, n=3, cutoff=0.0 if same else 0.5)


def hint(near: list[str]) -> str:
    return f"; near it: {', '.join(near)}." if near else "."


def fill(workflow: dict, values: dict[Slot, Any]) -> dict:
    """Return a workflow with other values in it. The given workflow does not change."""
    filled = dict(workflow)
    for (number, slot), value in values.items():
        node = filled[number]
        filled[number] = {**node, "inputs": {**node["inputs"], slot: value}}
    return filled


def content_id(workflow: dict) -> str:
    """Return an id that is equal for workflows that compute the same. Titles do not count.

    It has 16 hexadecimal digits. Among a million workflows, two have the same id once in 37 million
    times.
    """
    return hashlib.sha256(content_text(workflow).encode()).hexdigest()[:16]


def content_text(workflow: dict) -> str:
    return as_json({n: (node["class_type"], node["inputs"]) for n, node in workflow.items()})


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def id_maker(workflow: dict, slots: dict[str, Slot]) -> Callable[[dict[str, Any]], str]:
    """Return a function that computes content_id(fill(…)) from values by name, and is faster.

    The text of the workflow is made only once, with a mark in the place of each value.
    """
    marks = {name: uuid.uuid4().hex for name in slots}
    text = content_text(fill(workflow, {slot: marks[name] for name, slot in slots.items()}))
    first, *rest = re.split('"(' + "|".join(marks.values()) + ')"', text) if marks else [text]
    names = {mark: name for name, mark in marks.items()}
    parts = [(names[mark], after) for mark, after in zip(rest[::2], rest[1::2], strict=True)]
    own = {name: as_json(workflow[node]["inputs"][slot]) for name, (node, slot) in slots.items()}
    begun = hashlib.sha256(first.encode())

    def make(values: dict[str, Any]) -> str:
        made = begun.copy()
        for name, after in parts:
            value = as_json(values[name]) if name in values else own[name]
            made.update((value + after).encode())
        return made.hexdigest()[:16]

    return make


def seeds(workflow: dict) -> dict[str, int]:
    """Return the value of every seed that is not connected, such as "Decoder.seed" → 1."""
    return {
        f"{label(workflow, number)}.{slot}": node["inputs"][slot]
        for number, node in workflow.items()
        for slot in SEEDS
        if isinstance(node["inputs"].get(slot), int)
    }
