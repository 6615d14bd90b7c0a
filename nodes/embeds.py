"""Image embeddings from pictures, and mixes of them."""

from comfy_api.latest import io, ui

from ..utils.kandinsky import mixing as verbs
from ..utils.kandinsky.mix_chart import draw_mix
from ..utils.kandinsky.values import MOST_ITEMS
from . import types

MOST_INPUTS = 8


def embeds_output() -> io.Output:
    return types.Embeds.Output(id="image_embeds", display_name="image_embeds")


class EncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22EncodeImage",
            display_name="Encode Image (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Turns pictures into image embeddings: their contents, not their layout.",
            search_aliases=["CLIP vision", "image to embeds", "image variation", "unCLIP"],
            inputs=[types.Prior.Input("prior"), io.Image.Input("image")],
            outputs=[embeds_output()],
        )

    @classmethod
    def execute(cls, prior, image) -> io.NodeOutput:
        return io.NodeOutput(types.Prior.take(prior).encode_image(image))


class ZeroEmbeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22ZeroEmbeds",
            display_name="Zero Embeds (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="The negative to use where there is none: CLIP's view of an empty picture.",
            search_aliases=["empty", "negative", "unconditional", "zero image"],
            inputs=[types.Prior.Input("prior")],
            outputs=[embeds_output()],
        )

    @classmethod
    def execute(cls, prior) -> io.NodeOutput:
        return io.NodeOutput(types.Prior.take(prior).zero_embeds())


class EmbedsFromClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22EmbedsFromClipVision",
            display_name="Embeds From CLIP Vision (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Image embeddings from ComfyUI's own CLIP Vision Encode. Its model must be "
            "CLIP ViT-bigG/14, the one Kandinsky 2.2 was trained on.",
            search_aliases=["CLIP vision", "bigG", "unCLIP conditioning", "convert"],
            inputs=[io.ClipVisionOutput.Input("clip_vision_output")],
            outputs=[embeds_output()],
        )

    @classmethod
    def execute(cls, clip_vision_output) -> io.NodeOutput:
        return io.NodeOutput(verbs.from_clip_vision(clip_vision_output))


def method_input(default: str) -> io.Input:
    return io.Combo.Input(
        "method",
        options=list(verbs.METHODS),
        default=default,
        tooltip="linear: the plain weighted sum, as diffusers does it. slerp: along the sphere, so "
        "that a mix is as strong as what it is made of.",
    )


def weighted_inputs(count: int) -> list[io.Input]:
    pairs = []
    for i in range(1, count + 1):
        pairs.append(types.Embeds.Input(f"image_embeds_{i}"))
        pairs.append(
            io.Float.Input(
                f"weight_{i}",
                default=round(1 / count, 2),
                min=-10.0,
                max=10.0,
                step=0.05,
                round=0.001,
                tooltip="How much of this one. With linear, weights usually add up to 1.",
            )
        )
    return pairs


class Interpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        options = [
            io.DynamicCombo.Option(str(count), weighted_inputs(count))
            for count in range(2, MOST_INPUTS + 1)
        ]
        return io.Schema(
            node_id="Kandinsky22Interpolate",
            display_name="Interpolate (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="Mixes pictures and prompts: a weighted blend of 2 to 8 embeddings. The "
            "bars on the node say how like each of them the mix is.",
            search_aliases=["mix", "blend", "merge", "average", "slerp", "lerp", "combine"],
            inputs=[
                io.DynamicCombo.Input(
                    "count", options=options, tooltip="How many embeddings to mix."
                ),
                method_input("linear"),
            ],
            outputs=[embeds_output()],
        )

    @classmethod
    def execute(cls, method, **inputs) -> io.NodeOutput:
        count = inputs.get("count")  # a dict of all that the choice brings along
        if not isinstance(count, dict) or "image_embeds_1" not in count:
            raise ValueError(f"count is one of the words '2' to '{MOST_INPUTS}', not {count!r}.")
        numbers = [i for i in range(1, MOST_INPUTS + 1) if f"image_embeds_{i}" in count]
        embeds = [types.Embeds.take(count[f"image_embeds_{i}"]) for i in numbers]
        weights = [count.get(f"weight_{i}") for i in numbers]
        mixed = verbs.mix(embeds, weights, method)
        return io.NodeOutput(mixed, ui=ui.PreviewImage(draw_mix(mixed, embeds), cls=cls))


class InterpolateSequence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22InterpolateSequence",
            display_name="Interpolate Sequence (Kandinsky 2.2)",
            category="Kandinsky 2.2/embeds",
            description="A morph: a batch of embeddings that goes from one to another. Decode it "
            "on a canvas of batch 1, and every frame has the same noise.",
            search_aliases=["morph", "animation", "travel", "transition", "slerp", "video"],
            inputs=[
                types.Embeds.Input("start_embeds"),
                types.Embeds.Input("end_embeds"),
                io.Int.Input(
                    "frames", default=8, min=2, max=MOST_ITEMS, tooltip="Both ends are among them."
                ),
                method_input("slerp"),
            ],
            outputs=[embeds_output()],
        )

    @classmethod
    def execute(cls, start_embeds, end_embeds, frames, method) -> io.NodeOutput:
        start, end = types.Embeds.take(start_embeds), types.Embeds.take(end_embeds)
        return io.NodeOutput(verbs.interpolate_sequence(start, end, frames, method))
