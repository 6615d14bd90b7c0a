"""Mixes of image embeddings: a weighted mix, or a sequence from one to another."""

from typing import Any

from comfy_api.latest import io, ui

from ..utils.kandinsky.checks import MOST_ITEMS
from ..utils.kandinsky.mix_chart import draw_mix
from ..utils.kandinsky.mixing import METHODS, interpolate_sequence, mix
from .sockets import EMBEDS

MOST_INPUTS = 8


class Count(str):
    """One of the widget's choices, which are texts. In API JSON it may be a number, too."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float) and not isinstance(other, bool):
            return int(self) == other
        return str(self) == other

    __hash__ = str.__hash__


def method_input(default: str) -> io.Input:
    return io.Combo.Input(
        "method",
        options=list(METHODS),
        default=default,
        tooltip="linear: the weighted sum, as in diffusers. slerp: keeps the mix as strong (as "
        "long a vector) as its parts; a linear mix of unlike embeddings is weaker.",
    )


def weighted_inputs(count: int) -> list[io.Input]:
    pairs: list[io.Input] = []
    for i in range(1, count + 1):
        pairs.append(EMBEDS.input(f"image_embeds_{i}"))
        pairs.append(
            io.Float.Input(
                f"weight_{i}",
                default=round(1 / count, 2),
                min=-10.0,
                max=10.0,
                step=0.05,
                round=0.001,
                tooltip="How much of this embedding the mix gets. With linear, the weights "
                "usually add up to 1.",
            )
        )
    return pairs


class Interpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        options = [
            io.DynamicCombo.Option(Count(count), weighted_inputs(count))
            for count in range(2, MOST_INPUTS + 1)
        ]
        return io.Schema(
            node_id="Kandinsky22Interpolate",
            display_name="Interpolate (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Mixes pictures and prompts: a weighted blend of 2 to 8 embeddings. The "
            "bars on the node show how similar the mix is to each of them.",
            search_aliases=["mix", "blend", "merge", "average", "slerp", "combine", "style"],
            inputs=[
                io.DynamicCombo.Input(
                    "count", options=options, tooltip="How many embeddings to mix."
                ),
                method_input("linear"),
            ],
            outputs=[EMBEDS.output("image_embeds")],
        )

    @classmethod
    def execute(cls, method: Any, **inputs: Any) -> io.NodeOutput:
        count = inputs.get("count")  # a dict with all inputs of the choice
        if not isinstance(count, dict) or "image_embeds_1" not in count:
            raise ValueError(
                f"count is one of the choices 2 to {MOST_INPUTS}, not {count!r:.80}. In API JSON "
                "what it brings along is named count.image_embeds_1, count.weight_1 and so on."
            )
        numbers = [i for i in range(1, MOST_INPUTS + 1) if f"image_embeds_{i}" in count]
        embeds = [EMBEDS.take(count[f"image_embeds_{i}"]) for i in numbers]
        weights: list[Any] = [count.get(f"weight_{i}") for i in numbers]
        mixed = mix(embeds, weights, method)
        return io.NodeOutput(mixed, ui=ui.PreviewImage(draw_mix(mixed, embeds), cls=cls))


class InterpolateSequence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22InterpolateSequence",
            display_name="Interpolate Sequence (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Makes a morph: a batch of embeddings that goes from one embedding to "
            "another. Decode it with an empty latent of batch size 1: then every frame has the "
            "same noise.",
            search_aliases=["morph", "animation", "travel", "transition", "slerp", "video"],
            inputs=[
                EMBEDS.input("start_embeds"),
                EMBEDS.input("end_embeds"),
                io.Int.Input(
                    "frames",
                    default=8,
                    min=2,
                    max=MOST_ITEMS,
                    tooltip="How many frames, including the first and the last.",
                ),
                method_input("slerp"),
            ],
            outputs=[EMBEDS.output("image_embeds")],
        )

    @classmethod
    def execute(cls, start_embeds: Any, end_embeds: Any, frames: Any, method: Any) -> io.NodeOutput:
        start, end = EMBEDS.take(start_embeds), EMBEDS.take(end_embeds)
        return io.NodeOutput(interpolate_sequence(start, end, frames, method))
