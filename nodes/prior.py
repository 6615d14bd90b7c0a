"""The prior's nodes: prompt (and embeddings) → image embeddings."""

from typing import Any

from comfy_api.latest import io

from ..utils.kandinsky.checks import MOST_ITEMS
from .sockets import EMBEDS, PRIOR
from .widgets import NAMES_OF_THE_MODEL, cfg_input, seed_input, show_notes

ONE_PASS_NOTE = "This prior makes embeddings in one pass: steps and cfg mean nothing to it."


def prompt_inputs() -> list[io.Input]:
    return [
        io.String.Input("prompt", multiline=True, dynamic_prompts=True),
        io.String.Input(
            "negative_prompt",
            multiline=True,
            dynamic_prompts=True,
            default="",
            tooltip="What the picture should not show. Its embedding is the output "
            "negative_image_embeds. If cfg is above 1, it also steers the prior away. If you "
            "leave it empty, that output is CLIP's embedding of a grey picture, as in diffusers.",
        ),
    ]


def sampling_inputs() -> list[io.Input]:
    return [
        seed_input(
            "Embedding i of a batch, counted from 0, uses seed + i: with that seed you can make it "
            "again alone."
        ),
        io.Int.Input("steps", default=25, min=2, max=1000, tooltip="Denoising steps. 25 is usual."),
        cfg_input(
            "How closely to follow the prompt. 4 is diffusers' default. 1, used in Hugging Face's "
            "Kandinsky guide, means no guidance and takes half the time."
        ),
    ]


def outputs() -> list[io.Output]:
    return [EMBEDS.output("image_embeds"), EMBEDS.output("negative_image_embeds")]


class SamplePrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Prior",
            display_name="Prior (Kandinsky 2.2)",
            category="Kandinsky 2.2/prior",
            description="Turns a prompt into the image embeddings of a picture that fits it.",
            search_aliases=[
                *("prompt", "negative prompt", "text encode", "unCLIP", "text to image"),
                *("embeddings", "embedding", *NAMES_OF_THE_MODEL),
            ],
            inputs=[
                PRIOR.input("prior"),
                *prompt_inputs(),
                *sampling_inputs(),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=MOST_ITEMS,
                    tooltip="How many different embeddings to make for the prompt.",
                ),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(
        cls,
        prior: Any,
        prompt: Any,
        negative_prompt: Any,
        seed: Any,
        steps: Any,
        cfg: Any,
        batch_size: Any,
    ) -> io.NodeOutput:
        loaded = PRIOR.take(prior)
        show_notes([ONE_PASS_NOTE] if loaded.one_pass else [])
        return io.NodeOutput(
            *loaded.sample(prompt, negative_prompt, seed, steps, cfg, batch_size=batch_size)
        )


class PriorEmb2Emb(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22PriorEmb2Emb",
            display_name="Prior Emb2Emb (Kandinsky 2.2)",
            category="Kandinsky 2.2/prior",
            description="Changes image embeddings towards a prompt: you can edit what is in "
            "a picture with words.",
            search_aliases=[
                *("image and prompt", "image prompt", "IP-Adapter", "edit", "strength"),
                *("unCLIP", "variation"),
            ],
            inputs=[
                PRIOR.input("prior"),
                EMBEDS.input("image_embeds"),
                *prompt_inputs(),
                io.Float.Input(
                    "strength",
                    default=0.3,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="How far to move towards the prompt. With 25 steps and strength 0.3 "
                    "only the last 7 steps are run. 0.85 changes most of the picture.",
                ),
                *sampling_inputs(),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(
        cls,
        prior: Any,
        image_embeds: Any,
        prompt: Any,
        negative_prompt: Any,
        strength: Any,
        seed: Any,
        steps: Any,
        cfg: Any,
    ) -> io.NodeOutput:
        sample, start = PRIOR.take(prior).sample, EMBEDS.take(image_embeds)
        return io.NodeOutput(
            *sample(prompt, negative_prompt, seed, steps, cfg, start=start, strength=strength)
        )
