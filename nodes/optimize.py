"""What a MODEL can be told about speed and exactness, for stages and samplers alike."""

from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.attention import ATTENTIONS
from ..utils.comfyui.optimize import optimize


class Optimize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Optimize",
            display_name="Optimize (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Chooses the decoder's attention and memory format, for the stages and for "
            "KSampler alike. For torch.compile put TorchCompileModel after it.",
            search_aliases=["attention", "xformers", "sage attention", "sdpa", "channels last"],
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTIONS),
                    default="sdpa",
                    tooltip="sdpa: PyTorch's own, the default. host: what your ComfyUI was started "
                    "with (xformers, sage, flash, split, …). plain: slow and with much memory, but "
                    "of nothing but products of matrices.",
                ),
                io.Boolean.Input(
                    "channels_last",
                    default=False,
                    tooltip="Pixels before channels in memory: convolutions, most of this model's "
                    "work, can be faster so; on NVIDIA's cards more likely when compiled. Under "
                    "dynamic memory the weights are turned at every call.",
                ),
            ],
            outputs=[io.Model.Output(id="model", display_name="model")],
        )

    @classmethod
    def execute(cls, model: Any, attention: Any, channels_last: Any) -> io.NodeOutput:
        return io.NodeOutput(optimize(model, attention, channels_last))
