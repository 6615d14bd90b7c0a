"""LoRA: a small file that changes the weights of a decoder or a prior while it is used."""

from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.model_files import find_file, fingerprint_lora, list_files
from .sockets import PRIOR
from .widgets import check_file_name, show_notes

ALIASES = ["lora", "DoRA", "LoHa", "LoKr", "peft", "style", "fine-tune", "adapter"]


def lora_inputs(makers: str) -> list[io.Input]:
    return [
        io.Combo.Input(
            "lora_name",
            options=list(list_files("loras")),
            tooltip="A safetensors file under models/loras, or the bundled one. Files from "
            f"{makers} work.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=-100.0,
            max=100.0,
            step=0.01,
            tooltip="How much of the change to add. At 0 nothing changes, and below 0 the change "
            "is reversed.",
        ),
    ]


class LoraNode(io.ComfyNode):
    """The checks of the file that both LoRA nodes share."""

    @classmethod
    def validate_inputs(cls, lora_name: Any) -> bool | str:
        return check_file_name(lora_name, "loras")

    @classmethod
    def fingerprint_inputs(cls, lora_name: Any, **_: Any) -> Any:
        return fingerprint_lora(lora_name)


class LoadDecoderLora(LoraNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadDecoderLora",
            display_name="Load Decoder LoRA (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Adds a LoRA to the decoder's UNet, for example a style. Several of these "
            "nodes can follow one another.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model"),
                *lora_inputs("diffusers, peft, kohya and ComfyUI's Train LoRA"),
            ],
            outputs=[io.Model.Output(id="model", display_name="model")],
        )

    @classmethod
    def execute(cls, model: Any, lora_name: Any, strength: Any) -> io.NodeOutput:
        from ..utils.comfyui.lora import apply_to_decoder

        patched, notes = apply_to_decoder(model, find_file(lora_name, "loras"), strength)
        show_notes(notes)
        return io.NodeOutput(patched)


class LoadPriorLora(LoraNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22LoadPriorLora",
            display_name="Load Prior LoRA (Kandinsky 2.2)",
            category="Kandinsky 2.2/loaders",
            description="Adds a LoRA to the prior's transformer, which changes what a prompt "
            "means. Several of these nodes can follow one another.",
            search_aliases=ALIASES,
            inputs=[PRIOR.input("prior"), *lora_inputs("diffusers, peft and kohya")],
            outputs=[PRIOR.output("prior")],
        )

    @classmethod
    def execute(cls, prior: Any, lora_name: Any, strength: Any) -> io.NodeOutput:
        from ..utils.comfyui.lora import apply_to_prior

        file = find_file(lora_name, "loras")
        patched, notes = apply_to_prior(PRIOR.take(prior), file, strength)
        show_notes(notes)
        return io.NodeOutput(patched)
