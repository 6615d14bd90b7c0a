"""Draw random graphs in API form, connected by socket types, as a user or a script might do.

A graph grows backwards, from nodes whose outputs are read to the loaders. Half of the graphs are
correct, and a quarter have nodes for other models. In a quarter, anything may be wrong: a literal
in place of a wire, a wire of another type, a value beyond its bounds, a missing input.
"""

from typing import Any

from helpers.node_specs import (
    FOREIGN,
    NESTED,
    OURS,
    PRIMITIVES,
    RUNNERS,
    SWITCH,
    WIDGETS,
    Input,
    Spec,
    shortest,
)
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from hypothesis import strategies as st

# The decoders, and which of them the MODEL of a stage should be.
DECODERS = (TEXT_TO_IMAGE, INPAINT, DEPTH)
STAGES = {
    "Kandinsky22Decoder": TEXT_TO_IMAGE,
    "Kandinsky22Img2Img": TEXT_TO_IMAGE,
    "Kandinsky22Inpaint": INPAINT,
    "Kandinsky22ControlNet": DEPTH,
    "Kandinsky22ControlNetImg2Img": DEPTH,
}
# What one of ComfyUI's samplers needs after Conditioning for a decoder.
CONDITIONED = {INPAINT: "Kandinsky22InpaintConditioning", DEPTH: "Kandinsky22DepthConditioning"}
# Values that only cost time or memory are kept small: (lowest, highest) within the bounds.
SMALL = {
    **dict.fromkeys(("steps", "start_at_step", "end_at_step", "step"), (2, 4)),
    **dict.fromkeys(("left", "right", "top", "bottom", "x", "y", "feathering", "expand"), (0, 70)),
    **dict.fromkeys(("tile_size", "grow_mask_by"), (0, 96)),
    **dict.fromkeys(("denoise", "strength"), (0.4, 1.0)),
    "overlap": (0, 24),  # of tiles, which have 64 or more in ComfyUI
    **dict.fromkeys(("scale_by", "scale", "multiplier"), (0.1, 2.0)),
    "batch_index": (0, 3),
}
SIZES = ("width", "height", "target_width", "target_height")
BATCHES = ("batch_size", "amount", "length", "frames", "seconds")
ENDLESS = ("dpm_adaptive", "dpm_fast")  # these choose their own number of steps
WORDS = ["a cat", "", " ", "a" * 600, "кот 🐈", "\0", "\ud800", "<|endoftext|>", "{a|b}", "%year%"]
NAMES = ["fuzz", "a/b", "", "../out", "x" * 300, "a\0b", "y" * 300 + "/z", "C:\\x", "%width%", "."]
WRONG = [None, "x", 5, -1.5, True, [], {}, {"samples": 1}, ["nowhere"], ["0", 0], "nan"]


def switch_inputs(value: Any) -> dict[str, Any]:
    return {"switch": True, "on_true": value, "on_false": None}


class Builder:
    """Builds one graph, choice by choice."""

    def __init__(self, draw, specs: dict[str, Spec], ends: dict[str, list[str]]):
        self.draw, self.specs, self.ends = draw, specs, ends
        self.graph: dict[str, Any] = {}
        self.made: dict[tuple[str, str | None], list[list]] = {}
        kind = self.pick(("sound", "sound", "foreign", "wild"))
        self.wild, self.foreign = kind == "wild", kind != "sound"
        sizes = (64, 96, 32, 40, 17, 8, 1) if self.wild else (64, 96, 32, 40)
        self.sizes = [self.pick(sizes) for _ in range(2)]
        self.batches = (1, self.pick((1, 2, 3)))

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1  # shrinks to False

    def pick(self, values):
        return self.draw(st.sampled_from(list(values)))

    def number(self, low, high, default=None, step=None):
        if step:
            return int(low) + step * self.draw(st.integers(0, int(high - low) // step))
        usual = [value for value in (default, low, high) if value is not None]
        return self.draw(st.sampled_from(usual) | st.floats(float(low), float(high)))

    def node(self, name: str, depth: int, decoder: str | None = None) -> str:
        """Add a new node with all nodes before it. Return its id."""
        spec = self.specs[name]
        if {"MODEL", "CONDITIONING"} <= set(spec.sockets):
            decoder = decoder or self.pick(DECODERS)
        inputs: dict[str, Any] = {}
        for key, socket in spec.inputs.items():
            if socket.required or not self.chance(8):
                self.fill(inputs, key, socket, depth, STAGES.get(name, decoder))
        if self.wild and inputs and self.chance(10):
            del inputs[self.pick(inputs)]
        return self.add(name, inputs, decoder)

    def add(self, name: str, inputs: dict[str, Any], decoder: str | None = None) -> str:
        number = str(len(self.graph) + 1)
        self.graph[number] = {"class_type": name, "inputs": inputs}
        for slot, kind in enumerate(self.specs[name].outputs if name in self.specs else ()):
            key = (kind, decoder if kind in ("MODEL", "CONDITIONING") else None)
            self.made.setdefault(key, []).append([number, slot])
        return number

    def look_at(self, number: str) -> None:
        """Make results of a node's outputs."""
        for slot, _ in enumerate(self.specs[self.graph[number]["class_type"]].outputs):
            self.add("PreviewAny", {"source": [number, slot]})

    def fill(self, inputs, key: str, socket: Input, depth: int, decoder: str | None) -> None:
        if self.wild and self.chance(20):
            inputs[key] = self.wrong(socket)
        elif socket.kind == NESTED:
            inputs[key] = self.pick(option["key"] for option in socket.options["options"][:3])
            for inner, inner_socket in socket.nested(inputs[key]).items():
                self.fill(inputs, f"{key}.{inner}", inner_socket, depth, decoder)
        elif self.wild and socket.kind in PRIMITIVES and self.chance(12):
            # ComfyUI does not check the bounds of values that come over a wire.
            value = self.beyond(socket) if self.chance(2) else self.value(key, socket, decoder)
            inputs[key] = [self.add(PRIMITIVES[socket.kind], {"value": value}), 0]
        elif socket.kind in WIDGETS:
            inputs[key] = self.value(key, socket, decoder)
        elif socket.kind in self.ends:
            inputs[key] = self.wire(socket.kind, depth, decoder)
        elif socket.required:
            inputs[key] = self.wrong(socket)

    def wire(self, kind: str, depth: int, decoder: str | None) -> list:
        decoder = decoder if kind in ("MODEL", "CONDITIONING", "GUIDER") else None
        made = self.made.get((kind, decoder), [])
        if made and self.chance(2):
            return self.pick(made)
        names = self.ends[kind]
        if depth > 0 and len(self.graph) < 25:
            names = [name for name, spec in self.specs.items() if kind in spec.outputs]
            names += 3 * [name for name in names if name.startswith(OURS)]
            if kind == "CONDITIONING" and decoder in CONDITIONED and not self.chance(4):
                names = [CONDITIONED[decoder]]
            if self.foreign and self.chance(2):
                names = [name for name in names if name in FOREIGN] or names
        name = self.pick(n for n in names if self.foreign or n not in FOREIGN)
        number = self.node(name, depth - 1, decoder)
        slots = [i for i, output in enumerate(self.specs[name].outputs) if output == kind]
        return [number, self.pick(slots)]

    def value(self, key: str, socket: Input, decoder: str | None) -> Any:
        """Return a valid value of a widget."""
        key, options = key.split(".")[-1], socket.options
        default = options.get("default")
        if socket.kind == "COMBO":
            return self.choice(options.get("options", ()), default, decoder)
        if socket.kind == "BOOLEAN":
            return self.pick((False, True))
        if socket.kind == "STRING":
            words = NAMES if key == "filename_prefix" else WORDS
            return self.pick(words if self.wild else words[:2])
        low, high = options.get("min", -(2**31)), options.get("max", 2**31)
        if key in SIZES + BATCHES:
            value = self.pick(self.sizes if key in SIZES else self.batches)
            return max(low, min(high, value))
        smallest, largest = SMALL.get(key, (low, high))
        low, high = max(low, smallest), max(low, min(high, largest))
        step = options.get("step", 1) if socket.kind == "INT" else None
        return self.number(low, high, default, step)

    def choice(self, names, default: Any, decoder: str | None) -> Any:
        """Return a choice of a COMBO. Damaged files and folders have odd in their names."""
        names = [name for name in names if "mini" not in str(name) and name not in ENDLESS]
        if not self.wild:
            names = [name for name in names if "odd" not in str(name)]
            fitting = [name for name in names if str(name).removesuffix(".safetensors") == decoder]
            if fitting:
                return fitting[0]
            if default in names and not self.chance(5):
                return default
        return self.pick(names or ["nothing"])

    def beyond(self, socket: Input) -> Any:
        """Return an invalid value of the widget's own type."""
        if socket.kind in ("INT", "FLOAT"):
            more = ["nan", "inf", -1e30] if socket.kind == "FLOAT" else [2**64]
            return self.pick([socket.options.get("min", 0) - 1, -1, 0, *more])
        return self.pick(WORDS + NAMES)

    def wrong(self, socket: Input) -> Any:
        """Return a wrong input: a literal, another wire, a value out of bounds."""
        wires = [wire for made in self.made.values() for wire in made]
        value = self.pick([*WRONG, *wires, self.beyond(socket)])
        if SWITCH in self.specs and self.chance(2):
            return [self.add(SWITCH, switch_inputs(value)), 0]
        return value


class Simplest(Builder):
    """Builds the one graph without random choices, in which nothing is wrong."""

    def chance(self, one_in: int) -> bool:
        return False

    def pick(self, values):
        return next(iter(values))

    def number(self, low, high, default=None, step=None):
        return max(low, min(high, default or low))


def simplest(specs: dict[str, Spec], root: str) -> tuple[dict[str, Any], str]:
    """Return a correct graph for the outputs of one node, and that node's id in it."""
    builder = Simplest(None, specs, shortest(specs))
    number = builder.node(root, 0)
    inputs = builder.graph[number]["inputs"]
    if "negative_image_embeds" in inputs:
        # The same embeddings twice are refused, as guidance would cancel itself. Two equal nodes
        # give the same embeddings, because ComfyUI caches them.
        inputs["negative_image_embeds"] = [builder.node("Kandinsky22ZeroEmbeds", 0), 0]
    builder.look_at(number)
    return builder.graph, number


def graphs(specs: dict[str, Spec], root: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw graphs in API form whose results are those of `root` and of up to two other nodes."""
    ends = shortest(specs)
    others = st.sampled_from([name for name in specs if name.startswith(OURS)] + RUNNERS)

    @st.composite
    def grow(draw):
        builder = Builder(draw, specs, ends)
        for name in [root, *draw(st.lists(others, max_size=2))]:
            builder.look_at(builder.node(name, draw(st.integers(0, 3))))
        return builder.graph

    return grow()
