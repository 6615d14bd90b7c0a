"""Split a workflow in two: up to the image embeddings, and from there to pictures."""

from __future__ import annotations

from dataclasses import dataclass

from .workflow import is_wire

# Nodes whose outputs are all image embeddings. tests/host/test_batch.py compares this with a
# server.
MAKE_EMBEDS = {
    "Kandinsky22EmbedsFromClipVision",
    "Kandinsky22EncodeImage",
    "Kandinsky22Interpolate",
    "Kandinsky22InterpolateSequence",
    "Kandinsky22LoadEmbeds",
    "Kandinsky22Prior",
    "Kandinsky22PriorEmb2Emb",
    "Kandinsky22ZeroEmbeds",
}
SAVE, LOAD = "Kandinsky22SaveEmbeds", "Kandinsky22LoadEmbeds"

Wire = tuple[str, int]  # the id of a node, the number of one of its outputs


@dataclass(frozen=True)
class Stages:
    prior: dict  # a workflow that ends in a Save Embeds for each wire
    decode: dict  # a workflow that begins with a Load Embeds for each wire
    wires: dict[str, str]  # id of the Save Embeds → id of the Load Embeds, without its file

    def decode_from(self, files: dict[str, str]) -> dict:
        """Return the second part.

        files: id of the Save Embeds → name in the server's input folder.
        """
        loaders = {
            loader: {"class_type": LOAD, "inputs": {"file": files[saver]}}
            for saver, loader in self.wires.items()
        }
        return {**self.decode, **loaders}


def split(workflow: dict) -> Stages:
    """Cut every wire that takes embeddings out of the nodes that make them.

    Raises:
        ValueError: there is no such wire.
    """
    decode: dict = {}
    cut: list[Wire] = []
    for number, node in workflow.items():
        if node["class_type"] in MAKE_EMBEDS:
            continue
        inputs = dict(node["inputs"])
        for name, value in inputs.items():
            if is_wire(value) and makes_embeds(workflow[value[0]]):
                cut.append((value[0], value[1]))
                inputs[name] = [loader_of(*value), 0]
        decode[number] = {**node, "inputs": inputs}
    if not cut:
        kinds = ", ".join(sorted({node["class_type"] for node in workflow.values()}))
        raise ValueError(
            f"Nothing in this workflow decodes embeddings that it made. It has {kinds}."
        )
    wires = {saver_of(*wire): loader_of(*wire) for wire in cut}
    loaded = {n: node for n, node in workflow.items() if node["class_type"] == LOAD}
    ends = decode.keys() - sources(workflow.values())
    savers = {
        saver_of(*wire): {
            "class_type": SAVE,
            "inputs": {"image_embeds": list(wire), "filename_prefix": "batch/embeds"},
        }
        for wire in cut
    }
    return Stages(
        prior=needed_by({**workflow, **savers}, savers),
        decode=needed_by({**loaded, **decode}, ends),
        wires=wires,
    )


def makes_embeds(node: dict) -> bool:
    """Return whether a node makes embeddings. A node that loads them from a file does not."""
    return node["class_type"] in MAKE_EMBEDS - {LOAD}


def saver_of(node: str, output: int) -> str:
    return f"save-{node}-{output}"


def loader_of(node: str, output: int) -> str:
    return f"load-{node}-{output}"


def sources(nodes) -> set[str]:
    """Return the ids of the nodes that these nodes are connected to."""
    return {value[0] for node in nodes for value in node["inputs"].values() if is_wire(value)}


def needed_by(workflow: dict, ends) -> dict:
    """Return the nodes that the ends depend on, in the workflow's order."""
    needed, new = set(), set(ends)
    while new:
        needed |= new
        new = sources(workflow[n] for n in new if n in workflow) - needed
    return {number: node for number, node in workflow.items() if number in needed}
