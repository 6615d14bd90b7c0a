"""Settings of a MODEL for speed and exactness, for stages and samplers."""

from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.model_options import ATTENTIONS


class Optimize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22Optimize",
            display_name="Optimize (Kandinsky 2.2)",
            category="Kandinsky 2.2/decoder",
            description="Chooses the decoder's attention and memory format, for this pack's nodes "
            "and for KSampler. For torch.compile, put TorchCompileModel after this node.",
            search_aliases=["attention", "xformers", "sage attention", "sdpa", "channels last"],
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTIONS),
                    default="sdpa",
                    tooltip="sdpa: PyTorch's own attention, the default. host: the one that your "
                    "ComfyUI was started with (xformers, sage, flash, split, …). plain: slow, and "
                    "needs much memory, but is made of matrix multiplications only, so it works "
                    "everywhere.",
                ),
                io.Boolean.Input(
                    "channels_last",
                    default=False,
                    tooltip="Stores pixels before channels. Convolutions, which are most of this "
                    "model's work, can be faster in this format. On the CPUs that were measured "
                    "they are; no GPU was measured. With ComfyUI's dynamic VRAM the weights are "
                    "converted at every call, so little is gained.",
                ),
            ],
            outputs=[io.Model.Output(id="model", display_name="model")],
        )

    @classmethod
    def execute(cls, model: Any, attention: Any, channels_last: Any) -> io.NodeOutput:
        from ..utils.comfyui.optimize import optimize

        return io.NodeOutput(optimize(model, attention, channels_last))
